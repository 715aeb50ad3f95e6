"""A recipe's `data`: where captioned images are, and how they are fitted and drawn."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from e2ed2.data.buckets import Shape, bucket_shapes
from e2ed2.recipe.fields import MOST_HELD, Fraction, Held, Number, PathOrUrl, Positive, Section

SourceName = Literal["emoji", "folder", "parquet", "webdataset", "hub", "cache"]


def _caption(text: str) -> str:
    if len(text.splitlines()) != 1 or not text.strip():
        raise ValueError("a caption is one line of text that is not empty")
    return " ".join(text.split())  # as captions are read


class SourceConfig(Section):
    """Where captioned images are.

    `path`: a folder; files, a pattern or URLs of `parquet` and `webdataset`; a data set's name of `hub`, with its
    `revision` and `split`; what `e2ed2 precompute` made of `cache`. `streaming` reads `parquet` and `hub` in order, as
    `webdataset` always is, instead of having all of it on disk. `image_column`, `caption_column`: default: a usual
    name. `caption_per_line`: a text of several lines is several captions. `default_caption`: of images that have none.
    """

    source: SourceName = "emoji"
    path: PathOrUrl | None = None
    revision: str | None = None
    split: str = "train"
    streaming: bool = False
    image_column: str | None = None
    caption_column: str | None = None
    caption_per_line: bool = False
    default_caption: Annotated[str, AfterValidator(_caption)] | None = None

    @property
    def is_stream(self) -> bool:
        return self.source == "webdataset" or self.streaming


class WeightedSourceConfig(SourceConfig):
    """One of several sources; draws are in proportion to the weights."""

    weight: Positive = 1.0


class BucketConfig(Section):
    """Shapes beside the square: sides that `step` divides, at most `max_ratio` : 1, of about the square's area.

    `sizes`: sides of further squares, with shapes of their own; an image goes to the largest size that it fills.
    """

    max_ratio: Annotated[Number, Field(ge=1)] = 1.0
    step: Annotated[int, Field(strict=True, ge=8, le=MOST_HELD)] = 64
    sizes: list[Annotated[int, Field(strict=True, ge=8, le=MOST_HELD)]] = []

    @property
    def has_several(self) -> bool:
        """Whether there are shapes beside the one square."""
        return self.max_ratio > 1 or bool(self.sizes)


class DataConfig(SourceConfig):
    """Captioned images: one source, or several as `sources`. `size`: side in pixels of a square.

    `window_size`: items of a stream that are in memory and shuffled together, and as many that are being read.
    `num_workers`: threads that decode; they change nothing else. `images_per_caption`: n > 1 draws the share of plain
    captions (1: all rows) as groups of n different images of one caption. Scoring rules judge those, with all samples
    of the caption, where the chain starts from noise; the other terms judge everything else.
    """

    sources: list[WeightedSourceConfig] = []
    size: Annotated[int, Field(strict=True, ge=8, le=MOST_HELD)] = 64
    buckets: BucketConfig = BucketConfig()
    window_size: Held = 1000
    num_workers: Held | None = None
    max_bad_fraction: Fraction = 0.05
    plain_caption_fraction: Fraction = 0.25
    caption_dropout: Fraction = 0.0
    images_per_caption: Held = 1

    @property
    def asks_groups(self) -> bool:
        """Whether class batches are asked for, of images of one shape."""
        return self.images_per_caption > 1 and not self.buckets.has_several

    @property
    def shapes(self) -> list[Shape]:
        """What images are fitted to, the square of `size` first."""
        return bucket_shapes(self.size, **self.buckets.model_dump())
