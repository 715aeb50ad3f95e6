"""What stages that ask a model share: images in batches, and a batch that fails image by image."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeVar

from PIL import Image

from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import Pipeline
from e2ed2.data.image_files import decode_image
from e2ed2.system.errors import UserError, said

R = TypeVar("R")
Ask = Callable[[list[Image.Image]], Sequence[R]]  # of each image
ONE_AT_A_TIME = Lock()  # of the threads of a process: a model fills memory and cores by itself


def ask_model(items: Sequence[Item], stage: str, ask: Ask[R], batch_size: int, side: int) -> list[tuple[Item, R]]:
    """Each item with the model's answer; one on whose image it fails is dropped.

    Args:
        side: images are decoded at about twice this many pixels, where that is quicker.
    """
    answers: list[tuple[Item, R]] = []
    for first in range(0, len(items), batch_size):
        batch = items[first : first + batch_size]
        try:
            answers += zip(batch, ask([_decoded(item, side) for item in batch]), strict=True)
        except UserError:
            raise
        except Exception:  # one of them, or memory for so many
            for item in batch:
                try:
                    answers.append((item, ask([_decoded(item, side)])[0]))
                except UserError:
                    raise
                except Exception as error:
                    item.drop(stage, f"the model failed: {said(error)}")
    return answers


def _decoded(item: Item, side: int) -> Image.Image:
    return decode_image(item.read(), [(side, side)])[0]


def loaded(kind: Any, model: str, revision: str | None, field: str, **options: Any) -> Any:
    """What transformers makes of a folder or hub id, without running code that lies there.

    Raises:
        UserError: it cannot.
    """
    try:
        return kind.from_pretrained(model, revision=revision, **options)
    except Exception as error:  # of the disk, the hub, or transformers
        raise UserError(
            f"{field} {model}: cannot be loaded ({said(error)}); fetch it with `hf download {model} --local-dir DIR` "
            "and give DIR"
        ) from error


def check_models(pipeline: Pipeline) -> None:
    """Raise UserError, before any work, where a model is not to be had: its configuration is looked for alone."""
    from transformers import AutoConfig

    if (score := pipeline.score) is not None and score.model is not None:
        loaded(AutoConfig, score.model, score.revision, "score.model")
    if (caption := pipeline.caption) is not None and caption.server is None:
        loaded(AutoConfig, caption.model, caption.revision, "caption.model")
