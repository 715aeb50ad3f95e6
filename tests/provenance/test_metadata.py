"""What texts of image files say, of ours and of others'."""

import io
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from e2ed2.provenance.metadata import SOURCE_TYPES, read_metadata, says_generated

GENERATED, CAMERA, COMPOSITE = "trainedAlgorithmicMedia", "digitalCapture", "compositeSynthetic"


@pytest.mark.parametrize(
    ("types", "told"),
    [([CAMERA], CAMERA), ([CAMERA, GENERATED], GENERATED), ([CAMERA, COMPOSITE], COMPOSITE), (["a", CAMERA], "a")],
)
def test_of_several_source_types_the_one_that_says_generated_counts(types, told):
    image = Image.new("RGB", (8, 8))
    image.info["xmp"] = "".join(f"<a>{SOURCE_TYPES}{t}</a>" for t in types).encode()
    found = read_metadata(image)
    assert found == {"digital_source_type": told} and says_generated(found) is (told in (GENERATED, COMPOSITE))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1.5"])
def test_a_number_that_no_json_holds_is_no_text_of_ours(number):
    texts, out = PngInfo(), io.BytesIO()
    texts.add_itxt("e2ed2", f'{{"generated": true, "made_by": "e2ed2", "model": "m", "x": [{number}]}}')
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=texts)
    found = read_metadata(Image.open(out))
    json.dumps(found, allow_nan=False)
    assert says_generated(found) is (number == "1.5")
