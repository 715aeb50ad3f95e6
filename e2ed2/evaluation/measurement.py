"""The images of one evaluation and their features, each measured once, when a metric first asks for it."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from e2ed2.data.image_set import FileImages, ImageSet
from e2ed2.evaluation.asked import Asked, RealImages
from e2ed2.evaluation.features.extractors import EXTRACTORS, Extractor
from e2ed2.evaluation.features.store import Progress, store_segments, stored_features
from e2ed2.evaluation.metrics.intervals import Groups
from e2ed2.evaluation.metrics.table import CHOICE, metric_named
from e2ed2.system.paths import cache_dir
from e2ed2.system.processes import Share
from e2ed2.system.watch import Watch


class Measurement:
    """What metrics are functions of.

    Attributes:
        sha256: of each set by its name.
        networks: those used so far, by name.
    Args:
        real_sha256: of each set of real images.
        out: where features of the samples are kept; those of real images are in the cache folder.
        files: of the samples, one for each prompt; None before they are made.
    """

    def __init__(
        self, asked: Asked, real_sha256: Mapping[str, str], out: Path, watch: Watch, files: list[Path] | None = None
    ) -> None:
        images = asked.protocol.images
        self.asked, self.samples = asked, FileImages(files or [], "samples", images.size, images.resample)
        self.networks: dict[str, Extractor] = {}
        self.sha256, self._out, self._watch = dict(real_sha256), out, watch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if files is not None:
            watch("hashing images", 0, 0)
            self.sha256["samples"] = self.samples.sha256()

    @property
    def prompts(self) -> list[str]:
        """The caption of each sample."""
        return self.asked.prompts

    @property
    def groups(self) -> Groups:
        """What ties samples together: their captions, and nothing where those are all classes that there are."""
        return None if self.asked.of_classes else self.prompts

    @property
    def reference(self) -> RealImages:
        return self.asked.real["reference"]

    def network(self, name: str) -> Extractor:
        """A network of `EXTRACTORS`, or the protocol's choice, loaded once."""
        name = self.asked.protocol.networks.features if name == CHOICE else name
        if name not in self.networks:
            self._watch(f"loading {name}", 0, 0)
            self.networks[name] = EXTRACTORS[name](self.asked.protocol.networks, self._device)
        return self.networks[name]

    def features(self, kind: str, network: str) -> Tensor:
        """Features [N, D] of a set, memory-mapped where all of it counts."""
        found = stored_features(*self._stored(kind, network))
        rows = None if kind == "samples" else self.asked.real[kind].rows
        return found if rows is None else found[rows]

    def images(self, kind: str) -> Iterator[list[Tensor]]:
        """The images of a set in order, uint8 [3, H, W], some at a time."""
        if kind == "samples":
            return self.samples.chunks(range(len(self.samples)))
        real = self.asked.real[kind]
        return real.images.chunks(range(len(real.images)) if real.rows is None else real.rows)

    def store_share(self, share: Share) -> None:
        """This process' share of the features of all metrics, so that `features` finds them made.

        Of the sets that are there: before the samples are made, every network is loaded and every real image is read.
        """
        needed = [which for name in self.asked.metrics for which in metric_named(name).features()]
        for kind, network in dict.fromkeys(needed):
            if kind in self.sha256:
                store_segments(*self._stored(kind, network), share)
            else:
                self.network(network)

    def _stored(self, kind: str, network: str) -> tuple[ImageSet, str, Extractor, Path, Progress]:
        images: ImageSet = self.samples if kind == "samples" else self.asked.real[kind].images
        folder = self._out / "features" if kind == "samples" else cache_dir() / "evaluation"
        extract = self.network(network)
        progress = partial(self._watch, f"{kind}: {extract.name.partition(',')[0]} features")
        return images, self.sha256[kind], extract, folder, progress
