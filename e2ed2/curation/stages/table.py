"""The stages on a batch of rows, in the order in which they run: what each fills in, or drops."""

from collections.abc import Callable, Sequence

from e2ed2.curation.hashes import rank
from e2ed2.curation.items import Item, kept
from e2ed2.curation.pipeline import Pipeline
from e2ed2.curation.stages.caption import captioner
from e2ed2.curation.stages.check import check, decoders
from e2ed2.curation.stages.download import downloader
from e2ed2.curation.stages.score import scorer
from e2ed2.curation.work import Work

Stage = Callable[[Sequence[Item]], None]
Make = Callable[[Pipeline, Work], Stage]  # called once in every worker: models are loaded then
BATCH = 256  # rows in memory at a time, with their images


def _check(pipeline: Pipeline, work: Work) -> Stage:
    pool = decoders()
    return lambda items: check(items, pipeline.check, pool)


def _score(pipeline: Pipeline, work: Work) -> Stage:
    assert pipeline.score is not None
    return scorer(pipeline.score)


def _caption(pipeline: Pipeline, work: Work) -> Stage:
    assert pipeline.caption is not None
    return captioner(pipeline.caption, pipeline.seed)


# Step -> its stages. Between steps rows are on disk.
STAGES: dict[str, dict[str, Make]] = {
    "check": {"download": lambda pipeline, work: downloader(pipeline.download, work), "check": _check},
    "score": {"score": _score},
    "caption": {"caption": _caption},
}


def part_step(step: str, pipeline: Pipeline, work: Work) -> Callable[[list[Item]], None]:
    """What a step does to the rows of a part."""
    stages = [make(pipeline, work) for make in STAGES[step].values()]

    def run(items: list[Item]) -> None:
        for first in range(0, len(items), BATCH):
            batch = items[first : first + BATCH]
            for stage in stages:
                stage(kept(batch))
            for item in kept(batch):
                item.rank = rank(pipeline.seed, item.id, item.number, item.score)

    return run
