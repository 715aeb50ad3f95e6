"""What verify makes of labels that are whole, gone, forged, of another image, or cut off."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import c2pa
import pytest
from PIL import Image

from e2ed2.provenance import credentials, label, metadata, watermark
from e2ed2.provenance.keys import signing_key
from e2ed2.provenance.label import full_label, metadata_label
from e2ed2.provenance.verify import in_words, verify
from e2ed2.system.drawing.pictures import png_bytes
from e2ed2.system.errors import UserError
from tests.provenance.conftest import MADE, picture

SOURCE = metadata.SOURCE_TYPES


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each chunk of a PNG file."""
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        found.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of chunks, their checksums right."""
    whole = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        whole += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return whole


def without(png: bytes, *names: bytes) -> bytes:
    return png_of([(name, content) for name, content in chunks(png) if name not in names])


def signed_as(source_type: str | None, content: bytes, kind: str = "image/png") -> bytes:
    """The file with a valid manifest that tells of an image of this type, or with None of one that was edited."""
    key = signing_key()
    manifest = {"claim_generator_info": [{"name": "camera"}]}
    if source_type is not None:
        actions = [{"action": "c2pa.created", "digitalSourceType": SOURCE + source_type}]
        manifest["assertions"] = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    info = c2pa.C2paSignerInfo(key.algorithm.encode(), key.certificates, key.key, ta_url=None)
    out = io.BytesIO()
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest) as builder:
        if source_type is None:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
        builder.sign(signer, kind, io.BytesIO(content), out)
    return out.getvalue()


def test_metadata_and_manifest_tell_how_an_image_was_made(labelled):
    found = verify(labelled)
    assert found.generated is True and found.confidence == 0.99 and found.path == str(labelled)
    texts, manifest = found.evidence["metadata"], found.evidence["c2pa"]
    assert texts["prompt"] == MADE.prompt and texts["seed"] == 7 and texts["made_by"].startswith("e2ed2 ")
    assert texts["digital_source_type"] == "trainedAlgorithmicMedia"
    assert (manifest["state"], manifest["key"], manifest["problems"]) == ("valid", "own", [])
    assert manifest["fields"] == {k: v for k, v in texts.items() if k != "digital_source_type"}
    assert found.evidence["watermark"] is None, "it is too small for one"
    words = in_words(found)
    assert "generated (confidence 0.99)" in words and "valid, signed by your own key" in words and "été" in words


def test_what_is_kept_back_is_nowhere_in_the_file(tmp_path):
    content = full_label(with_prompt=False).png(picture(), MADE)
    assert b"red cat" not in content and b"red cat" in full_label().png(picture(), MADE)
    (tmp_path / "x.png").write_bytes(content)
    assert "prompt" not in verify(tmp_path / "x.png").evidence["metadata"]


def test_a_key_of_somebody_else_is_unknown_until_it_is_named(labelled, user, tmp_path, monkeypatch):
    (user / "signing.pem").rename(tmp_path / "colleague.pem")
    found = verify(labelled)
    assert (found.evidence["c2pa"]["key"], found.confidence) == ("unknown", 0.9)
    assert "signed by an unknown key" in in_words(found)
    monkeypatch.setenv("E2ED2_TRUSTED_CERTIFICATES", str(tmp_path / "colleague.pem"))
    found = verify(labelled)
    assert (found.evidence["c2pa"]["key"], found.confidence) == ("known", 0.99)


def test_a_manifest_of_another_image_counts_for_nothing(labelled, tmp_path):
    manifest = next(part for part in chunks(labelled.read_bytes()) if part[0] == b"caBX")
    head, *rest = chunks(png_bytes(picture(seed=1)))
    (tmp_path / "moved.png").write_bytes(png_of([head, manifest, *rest]))
    found = verify(tmp_path / "moved.png")
    assert found.generated is None and found.confidence == 0
    assert found.evidence["c2pa"]["state"] == "invalid" and "do not match" in in_words(found)


def test_a_manifest_that_was_edited_counts_for_nothing(tmp_path):
    camera = signed_as("digitalCapture", png_bytes(picture()))
    (tmp_path / "camera.png").write_bytes(camera)
    assert verify(tmp_path / "camera.png").generated is False
    for old, new in ((b"digitalCapture", b"digitalCapturf"), (b"camera", b"camerb")):
        parts = [(n, c.replace(old, new) if n == b"caBX" else c) for n, c in chunks(camera)]
        (tmp_path / "forged.png").write_bytes(png_of(parts))
        found = verify(tmp_path / "forged.png")
        assert (found.generated, found.evidence["c2pa"]["state"]) == (None, "invalid")


@pytest.mark.parametrize(
    ("source_type", "generated"),
    [("digitalCapture", False), ("compositeWithTrainedAlgorithmicMedia", True), ("screenCapture", None)],
)
def test_the_answer_is_what_a_valid_manifest_says(source_type, generated, tmp_path, user):
    (tmp_path / "x.png").write_bytes(signed_as(source_type, png_bytes(picture())))
    assert verify(tmp_path / "x.png").generated is generated
    if generated is False:
        assert verify(tmp_path / "x.png").confidence == 0.99
        (user / "signing.pem").unlink()
        assert verify(tmp_path / "x.png").confidence == 0.5, "whoever likes signs that"


def test_an_edited_image_is_generated_where_its_source_was_and_nobody_denies_it_for_the_editor(tmp_path):
    for source_type, generated in (("trainedAlgorithmicMedia", True), ("digitalCapture", None)):
        edited = signed_as(None, signed_as(source_type, png_bytes(picture())))
        (tmp_path / "x.png").write_bytes(edited)
        found = verify(tmp_path / "x.png")
        assert (found.generated, found.evidence["c2pa"]["state"]) == (generated, "valid")
        assert source_type in found.evidence["c2pa"]["source_types"]


def test_one_label_that_says_generated_outweighs_a_manifest_that_denies_it(tmp_path):
    (tmp_path / "x.png").write_bytes(signed_as("digitalCapture", metadata_label().png(picture(), MADE)))
    found = verify(tmp_path / "x.png")
    assert found.generated is True and found.evidence["c2pa"]["claim"] is False


def test_a_mark_alone_does_not_outweigh_a_known_denial(tmp_path, user):
    (tmp_path / "x.png").write_bytes(signed_as("digitalCapture", png_bytes(watermark.mark(picture(256, 256)))))
    found = verify(tmp_path / "x.png")
    assert found.evidence["watermark"] and (found.generated, found.confidence) == (None, 0)
    assert "cannot tell; a mark stands against a manifest" in in_words(found)
    (user / "signing.pem").unlink()
    found = verify(tmp_path / "x.png")
    assert (found.generated, found.confidence) == (True, 0.9), "whoever likes signs a denial"


def test_what_is_stripped_leaves_the_rest_and_nothing_at_all_proves_nothing(labelled, tmp_path):
    whole = labelled.read_bytes()
    for removed, confidence in (((b"iTXt",), None), ((b"caBX",), 0.8), ((b"caBX", b"iTXt"), 0)):
        (tmp_path / "x.png").write_bytes(without(whole, *removed))
        found = verify(tmp_path / "x.png")
        if confidence is None:  # the manifest is bound to the texts too
            assert found.evidence["c2pa"]["state"] == "invalid" and found.generated is None
        else:
            assert (found.generated, found.confidence) == (True if confidence else None, confidence)
            assert found.evidence["c2pa"] is None
    assert "proves nothing" in in_words(found)


@pytest.mark.parametrize("name", [b"caBX", b"iTXt", b"IDAT"])
def test_a_cut_chunk_is_no_crash(name, labelled, tmp_path):
    whole = labelled.read_bytes()
    start = whole.index(name)
    for keep in (0, 4, 30):
        (tmp_path / "cut.png").write_bytes(whole[: start + keep])
        with pytest.raises(UserError, match="cannot be decoded"):
            verify(tmp_path / "cut.png")
        shorter = [(n, c[:keep] if n == name else c) for n, c in chunks(whole)]
        (tmp_path / "short.png").write_bytes(png_of(shorter))
        if name == b"IDAT":
            with pytest.raises(UserError, match="cannot be decoded"):
                verify(tmp_path / "short.png")
        else:
            manifest = verify(tmp_path / "short.png").evidence["c2pa"]
            assert manifest is None or manifest["state"] == "invalid"


def test_formats_are_read_as_far_as_they_carry_labels(labelled, tmp_path):
    xmp = Image.open(labelled).info["xmp"]
    for suffix in ("jpg", "webp", "avif"):
        picture().save(tmp_path / f"x.{suffix}", xmp=xmp if isinstance(xmp, bytes) else xmp.encode())
        found = verify(tmp_path / f"x.{suffix}")
        assert (found.generated, found.confidence) == (True, 0.8), suffix
    picture().save(tmp_path / "x.bmp")
    assert verify(tmp_path / "x.bmp").generated is None


def test_a_jpeg_with_a_second_image_is_looked_at_for_a_manifest(tmp_path):
    path = tmp_path / "x.jpg"
    picture().save(path, "MPO", save_all=True, append_images=[picture(seed=1)])
    path.write_bytes(signed_as(metadata.GENERATED, path.read_bytes(), "image/jpeg"))
    assert Image.open(path).format == "MPO"
    found = verify(path)
    assert found.generated is True and found.evidence["c2pa"]["state"] == "valid"


@pytest.mark.parametrize("content", [b"", b"junk", b"<svg/>"])
def test_what_is_no_image_is_one_line(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"image .*x.png: cannot be decoded"):
        verify(tmp_path / "x.png")
    with pytest.raises(UserError, match="No such file"):
        verify(tmp_path / "none.png")


@pytest.mark.parametrize("side", [10_000, 100_000])
def test_a_picture_of_too_many_pixels_is_refused_by_its_head(side, tmp_path):
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(png_of([(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100)))]))
    with pytest.raises(UserError, match="cannot be decoded.*limit"):
        verify(tmp_path / "bomb.png")


def test_words_of_a_file_cannot_steer_a_terminal(tmp_path):
    made = replace(MADE, prompt="\x1b[2J\x07 red\r\nx.png: not generated", model="m\x9b31m")
    (tmp_path / "x.png").write_bytes(full_label().png(picture(), made))
    words = in_words(verify(tmp_path / "x.png"))
    assert all(letter.isprintable() for line in words.split("\n") for letter in line)
    assert [line[:2] for line in words.split("\n")[1:]] == ["  ", "  "], "it makes no line of its own"


def test_without_the_extra_metadata_is_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(label, "find_spec", lambda name: None)
    assert full_label().kinds == metadata_label().kinds == ("metadata",)
    (tmp_path / "x.png").write_bytes(full_label().png(picture(256, 256), MADE))
    with Image.open(tmp_path / "x.png") as written:
        assert written.convert("RGB").tobytes() == picture(256, 256).tobytes()
    found = verify(tmp_path / "x.png")
    assert found.generated is True and "e2ed2[provenance]" in in_words(found)


def test_manifests_are_read_without_asking_any_server(labelled, monkeypatch):
    assert credentials.SETTINGS["verify"]["remote_manifest_fetch"] is False
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("asked"))
    assert verify(labelled).generated is True


def test_a_mark_in_the_pixels_outlives_all_else(tmp_path):
    image = picture(256, 320)
    (tmp_path / "x.png").write_bytes(full_label().png(image, MADE))
    with Image.open(tmp_path / "x.png") as written:
        written.convert("RGB").save(tmp_path / "bare.bmp")
    found = verify(tmp_path / "bare.bmp")
    assert found.generated is True and found.evidence["metadata"] is found.evidence["c2pa"] is None
    mark = found.evidence["watermark"]
    assert mark["method"] == "rivagan" and mark["chance"] <= watermark.FALSE_ALARM
    assert found.confidence == 0.9 and "watermark  rivagan" in in_words(found)
    image.save(tmp_path / "unmarked.bmp")
    assert verify(tmp_path / "unmarked.bmp").evidence["watermark"] is None


def test_a_sheet_is_labelled_but_not_marked(tmp_path):
    sheet = replace(MADE, prompt=None, seed=None)
    content = full_label().png(picture(256, 256), sheet)
    with Image.open(io.BytesIO(content)) as written:
        assert written.convert("RGB").tobytes() == picture(256, 256).tobytes()
    Path(tmp_path / "x.png").write_bytes(content)
    assert verify(tmp_path / "x.png").evidence["c2pa"]["state"] == "valid"
