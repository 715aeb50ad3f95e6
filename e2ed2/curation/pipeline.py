"""What a pipeline may say: a section for every stage, in the order in which they run; one that is absent is skipped.

input: {source: parquet, path: coyo/*.parquet}
filter: [{column: width, min: 512}, {column: aspect, max: 2}]   # before anything is downloaded
download: {per_host: 2}
check: {min_side: 512}
deduplicate: {max_distance: 16}
score: {model: openai/clip-vit-large-patch14, head: head.safetensors}
select: {count: 120000, quotas: [{column: domain, max_share: 0.01}]}
caption: {model: llava-hf/llava-1.5-13b-hf}
output: {path: curated}
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from e2ed2.recipe.fields import Count, CountOrZero, Fraction, Held, NonNegative, Number, PathOrUrl, Positive, Section
from e2ed2.recipe.load import apply_override, validated
from e2ed2.recipe.shipped import recipe_file
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import check_fields
from e2ed2.system.readers.yaml_file import read_yaml

HASH_BITS = 128
MOST_MEGAPIXELS = 178  # what Pillow opens


class InputColumns(Section):
    """Names of columns, or of fields of a shard's JSON; None: the first of the usual ones that is there."""

    id: str | None = None
    url: str | None = None
    image: str | None = None
    caption: str | None = None
    score: str | None = None
    licence: str | None = None


class InputConfig(Section):
    """Where the rows are: `path` is a folder, tar shards or parquet files (a pattern, a URL too), or a hub data set."""

    source: Literal["folder", "webdataset", "parquet", "hub"] = "folder"
    path: PathOrUrl
    revision: str | None = None
    columns: InputColumns = InputColumns()


class Condition(Section):
    """What a row's column must be: within `min` to `max`, or one of `values`. A row without it does not pass.

    `aspect` is the longer side by the shorter, from the columns `width` and `height`.
    """

    column: str
    min: Number | None = None
    max: Number | None = None
    values: list[JsonValue] | None = None

    @model_validator(mode="after")
    def _asks(self) -> "Condition":
        if self.min is None and self.max is None and self.values is None:
            raise ValueError("give min, max or values")
        return self


class DownloadConfig(Section):
    """Times in seconds. `per_host`: connections to one host at a time. `user_agent`: what robots.txt is asked for."""

    user_agent: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")] = "e2ed2-curate"
    connections: Held = 64
    per_host: Held = 2
    retries: CountOrZero = 2
    read_timeout: Positive = 10.0
    total_timeout: Positive = 30.0
    max_megabytes: Positive = 32.0
    max_redirects: CountOrZero = 5
    allowed_hosts: list[str] = []  # private addresses that may be asked nevertheless, `host:port`


class CheckConfig(Section):
    """What an image must be, whatever its columns say."""

    min_side: Count = 1
    max_aspect: Annotated[Number, Field(ge=1)] = 1e6
    max_megapixels: Annotated[Positive, Field(le=MOST_MEGAPIXELS)] = 100.0


class DeduplicateConfig(Section):
    """Copies of the same bytes go. `max_distance`: bits of `HASH_BITS` that others may differ in; None: no others.

    Rows are compared where one of their hashes' 8 bands is equal: up to 7 bits surely. Of hashes with bits flipped at
    random 99.5% are found at 8 bits, 97% at 10, 88% at 12, 62% at 16.

    `max_embedding_distance`: the same of the embeddings' bits, which `score.model` gives.
    """

    max_distance: Annotated[CountOrZero, Field(le=32)] | None = 16
    max_embedding_distance: Annotated[CountOrZero, Field(le=32)] | None = None


class ScoreConfig(Section):
    """A linear head on image features: `model` is a CLIP or SigLIP folder or hub id, `head` a safetensors file.

    `min`: a smaller score does not pass.
    """

    model: str | None = None
    head: Path | None = None
    revision: str | None = None
    device: str = "cpu"
    batch_size: Held = 32
    min: Number | None = None


class CaptionConfig(Section):
    """Who describes the images: `model` in this process, or as a server with OpenAI's interface (vLLM's too) knows it.

    `keep_original`: the share of images that keep the caption they came with.
    """

    model: str
    server: PathOrUrl | None = None
    revision: str | None = None
    device: str = "cpu"
    prompt: str = "Describe this image in one or two sentences."
    max_tokens: Count = 96
    batch_size: Held = 8
    keep_original: Fraction = 0.0


class Quota(Section):
    """At most this share of `select.count`, or of all rows where that is less, has one value of a column.

    Where fewer are selected in the end, as quotas were full, its share of them is larger.
    """

    column: Literal["domain", "licence"] = "domain"
    max_share: Annotated[Fraction, Field(gt=0)]


class SelectConfig(Section):
    """The `count` best by score, ties and missing scores by the seed; None: all."""

    count: Count | None = None
    quotas: list[Quota] = []


class OutputConfig(Section):
    """Where shards, manifest and report go."""

    path: Path
    items_per_shard: Count = 1000


class ReportConfig(Section):
    """`evaluation_sets`: name -> captions or a folder of images that must not be trained on; overlap is shown."""

    evaluation_sets: dict[str, Path] = {}


class EngineConfig(Section):
    """Daft on this machine (`native`), or on a Ray cluster at `address` (None: one is found or started).

    `workers`: processes at a time (None: as the cores bear). `gpus`: of each that runs a model. `part_rows`: how
    many are read, written and repeated after a kill together.
    """

    runner: Literal["native", "ray"] = "native"
    address: str | None = None
    workers: Held | None = None
    gpus: NonNegative = 0
    part_rows: Count = 4096


class Pipeline(Section):
    """One recipe of `e2ed2 curate`."""

    seed: CountOrZero = 0
    input: InputConfig
    filter: list[Condition] = []
    download: DownloadConfig = DownloadConfig()
    check: CheckConfig = CheckConfig()
    deduplicate: DeduplicateConfig | None = None
    score: ScoreConfig | None = None
    select: SelectConfig = SelectConfig()
    caption: CaptionConfig | None = None
    output: OutputConfig
    report: ReportConfig = ReportConfig()
    engine: EngineConfig = EngineConfig()


def load_pipeline(path: Path, overrides: list[str]) -> Pipeline:
    """A pipeline file, or a shipped one by its name, with `field.path=value` overrides.

    Raises:
        UserError: unreadable file, malformed override, unknown stage or field, wrong type or range.
    """
    values = read_yaml(recipe_file(path, "pipeline"), "pipeline", "recipes/curation/")
    check_fields(values, f"pipeline {path}")
    for override in overrides:
        apply_override(values, override)
    pipeline = validated(Pipeline, values)
    asks_embeddings = pipeline.deduplicate is not None and pipeline.deduplicate.max_embedding_distance is not None
    has_model = pipeline.score is not None and pipeline.score.model is not None
    if asks_embeddings and not has_model:
        raise UserError("deduplicate.max_embedding_distance: given, but score.model, which embeds, is not: name one")
    return pipeline
