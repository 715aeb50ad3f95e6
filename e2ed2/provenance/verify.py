"""Whether an image is generated, and by what, as far as its labels tell."""

import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from e2ed2.data.image_files import IMAGE_FORMATS, to_rgb
from e2ed2.provenance import metadata
from e2ed2.provenance.label import has_extra
from e2ed2.provenance.watermark import find_mark
from e2ed2.system.errors import UserError, printable, said
from e2ed2.system.readers.text import read_bytes

REMEDY = "give a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image"
# How sure an answer is, by what gives it; docs/provenance.md says why.
BY_KEY = {"own": 0.99, "known": 0.99, "unknown": 0.9}
DENIED_BY_UNKNOWN = 0.5  # that an image is not generated, signed by whoever likes
BY_METADATA = 0.8
BY_MARK = 0.9  # no false alarm among 161 images: their rate may be some 2% all the same, and of other images more
KEYS = {"own": "by your own key", "known": "by a key that you know", "unknown": "by an unknown key"}
TOLD = {
    "digital_source_type": "{}", "made_by": "by {}", "model": "model {}", "num_inference_steps": "{} steps",
    "seed": "seed {}", "prompt": "prompt '{}'",
}  # fmt: skip
MAX_SHOWN = 200  # letters of what a label says


@dataclass(frozen=True)
class Finding:
    """What was found in one file.

    Attributes:
        generated: True where any label says so; False where a valid manifest says the contrary, and no label says so;
            None where nothing is found, which proves nothing, or where a mark alone stands against a known denial.
        confidence: in that answer, 0 to 1; 0 for None.
        evidence: `metadata`, `c2pa`, `watermark`: what each says, None where there is none.
    """

    path: str
    generated: bool | None
    confidence: float
    evidence: dict[str, Any]


def verify(path: Path) -> Finding:
    """What the labels of an image file say.

    Raises:
        UserError: it cannot be read, or is no image; or the files of known keys are not what they should be.
    """
    content = read_bytes(path, "image", REMEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what decoders say of damaged files beside refusing or taking them
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # over 89 million pixels
        image = _decoded(content, path)
        texts, credentials, mark = metadata.read_metadata(image), _credentials(content, str(image.format)), _mark(image)
    generated, confidence = _answer(texts, credentials, mark)
    return Finding(str(path), generated, confidence, {"metadata": texts, "c2pa": credentials, "watermark": mark})


def in_words(finding: Finding) -> str:
    """Some lines for people; nothing that a file says can steer a terminal."""
    marked = finding.evidence["watermark"]
    why = "a mark stands against a manifest" if marked else "that no label is found proves nothing"
    answer = {True: "generated", False: "not generated", None: f"cannot tell; {why}"}
    sure = "" if finding.generated is None else f" (confidence {finding.confidence:.2g})"
    lines = [f"{printable(finding.path)}: {answer[finding.generated]}{sure}"]
    texts, credentials, mark = (finding.evidence[kind] for kind in ("metadata", "c2pa", "watermark"))
    if texts:
        lines.append(f"  metadata   {_shown(', '.join(_told(texts)))}")
    if credentials and credentials["state"] == "valid":
        who = f"valid, signed {KEYS[credentials['key']]} ({_shown(credentials['signed_by'])})"
        says = ", ".join(credentials["source_types"]) or "nothing of its making"
        lines.append(f"  C2PA       {who}; says: {_shown(says)}")
    elif credentials:
        lines.append(f"  C2PA       {credentials['state']}: {_shown('; '.join(credentials['problems']))}")
    if mark:
        bits = f"{mark['matched']} of {mark['bits']} bits"
        lines.append(f"  watermark  {mark['method']}, {bits}; by chance {mark['chance']:.1g}")
    return "\n".join(lines)


def _decoded(content: bytes, path: Path) -> Image.Image:
    """The image, its pixels and texts in memory."""
    try:
        image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        image.load()
    except Exception as error:  # a broken file makes decoders raise nearly anything
        raise UserError(f"image {path}: cannot be decoded ({said(error)}); {REMEDY}") from error
    return image


def _credentials(content: bytes, image_format: str) -> dict[str, Any] | None:
    if not has_extra():
        return {"state": "not read", "problems": ["`pip install 'e2ed2[provenance]'` reads manifests"]}
    from e2ed2.provenance.credentials import read_credentials
    from e2ed2.provenance.keys import known_signers

    return read_credentials(content, image_format, known_signers())


def _mark(image: Image.Image) -> dict[str, Any] | None:
    try:
        picture = to_rgb(ImageOps.exif_transpose(image))
    except Exception:  # an odd kind of image, or odd texts on its orientation: it holds no mark of ours
        return None
    found = find_mark(picture)
    return asdict(found) if found else None


def _answer(
    texts: dict[str, Any] | None, credentials: dict[str, Any] | None, mark: dict[str, Any] | None
) -> tuple[bool | None, float]:
    """What all of it says together, by the surest that says so."""
    claim = credentials.get("claim") if credentials else None
    by_key = BY_KEY[credentials["key"]] if credentials and claim is not None else 0.0
    sure = max(
        BY_METADATA if metadata.says_generated(texts) else 0.0,
        by_key if claim is True else 0.0,
        BY_MARK if mark else 0.0,
    )
    if claim is False and by_key > BY_MARK and mark and not metadata.says_generated(texts):
        return None, 0.0  # a mark alone may be a false alarm, or stand in the pixels that somebody photographed
    if sure > 0:
        return True, sure
    if claim is False:
        return False, DENIED_BY_UNKNOWN if credentials and credentials["key"] == "unknown" else by_key
    return None, 0.0


def _told(texts: dict[str, Any]) -> list[str]:
    """What people want to know first of metadata; all of it is in the JSON."""
    return [form.format(texts[name]) for name, form in TOLD.items() if name in texts]


def _shown(text: object) -> str:
    words = printable(str(text))
    return words if len(words) <= MAX_SHOWN else words[:MAX_SHOWN] + "..."
