"""Metadata: that an image is generated, and from what, as texts of its file that anyone can read, or remove.

Our own fields are JSON in a PNG text of the name `e2ed2`. For programs of others an XMP packet holds IPTC's digital
source type (cv.iptc.org/newscodes/digitalsourcetype), which C2PA manifests use too.
"""

import json
import re
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from e2ed2.sampling.folder import MAKER
from e2ed2.sampling.label import Made
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import parse_json
from e2ed2.system.readers.typed import Record, checked

KEY, XMP_KEY = "e2ed2", "XML:com.adobe.xmp"  # of texts in a PNG file
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = "trainedAlgorithmicMedia"
GENERATED_TYPES = {GENERATED, "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"}  # the composites: in part
MAX_TEXT = 2**20  # letters of a text that is looked at

XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType="{source_type}" xmp:CreatorTool={tool}/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


class Metadata(Record):
    """What makes a text of our name ours; the other fields of `label.Made` stand beside it, as far as they are told."""

    generated: bool
    made_by: str
    model: str


def fields_of(made: Made, with_prompt: bool) -> dict[str, Any]:
    """What a label says of an image's making; the prompt only `with_prompt`."""
    fields = {"generated": True, "made_by": MAKER, **{k: v for k, v in asdict(made).items() if v is not None}}
    return {name: value for name, value in fields.items() if with_prompt or name != "prompt"}


def png_texts(fields: dict[str, Any]) -> PngInfo:
    """The texts of a generated image's PNG file."""
    texts = PngInfo()
    texts.add_itxt(KEY, json.dumps(fields))
    texts.add_itxt(XMP_KEY, XMP.format(source_type=SOURCE_TYPES + GENERATED, tool=quoteattr(MAKER)))
    return texts


def read_metadata(image: Image.Image) -> dict[str, Any] | None:
    """What the texts of a decoded image file say of its making; None where they say nothing of it.

    Returns:
        Our fields where it has them, `digital_source_type` where its XMP has one; of several one that says generated.
    """
    found: dict[str, Any] = {}
    text, packet = getattr(image, "text", {}).get(KEY), image.info.get("xmp", b"")
    if isinstance(text, str) and len(text) <= MAX_TEXT:
        with suppress(UserError, ValueError):  # not ours, or damaged: it says nothing
            found |= checked(Metadata, parse_json(text, finite=True), "metadata").model_dump(exclude_none=True)
    packet = packet if isinstance(packet, bytes) else str(packet).encode(errors="replace")
    types = [t.decode() for t in re.findall(re.escape(SOURCE_TYPES.encode()) + rb"(\w{1,80})", packet[:MAX_TEXT])]
    if types:
        found["digital_source_type"] = next((t for t in types if t in GENERATED_TYPES), types[0])
    return found or None


def says_generated(found: dict[str, Any] | None) -> bool:
    """Whether what `read_metadata` found says so. It never says the contrary: whoever likes may write it."""
    found = found or {}
    return found.get("generated") is True or found.get("digital_source_type") in GENERATED_TYPES
