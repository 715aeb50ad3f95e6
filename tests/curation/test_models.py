"""Scores and captions by tiny random copies of the true classes, and by a server with OpenAI's interface."""

import base64
import io
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.error import HTTPError

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import CaptionConfig
from e2ed2.curation.run import curate
from e2ed2.curation.stages import caption as captions
from e2ed2.curation.stages.caption import LocalModel
from e2ed2.curation.stages.score import ImageFeatures
from e2ed2.system.errors import UserError
from e2ed2.system.watch import silent
from tests.curation.conftest import pipeline_of, run, write_images
from tests.curation.tiny import WORDS, save_captioner, save_features, save_head

WIDTHS = {"clip": 12, "siglip": 16}


@pytest.mark.parametrize("kind", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_scores_are_the_head_on_the_features_of_each_image(kind, photos, tmp_path):
    from transformers import AutoImageProcessor, AutoModel

    model, head = save_features(kind, tmp_path / kind), save_head(WIDTHS[kind], tmp_path / "head.safetensors")
    rows = run(pipeline_of(tmp_path / "out", f"input.path={photos}", f"score.model={model}", f"score.head={head}"))
    network, processor = AutoModel.from_pretrained(model), AutoImageProcessor.from_pretrained(model)
    weights = load_file(head)
    for name, row in list(rows.items())[:3]:
        pixels = processor(images=Image.open(photos / name), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            pooled = network.vision_model(pixel_values=pixels).pooler_output
            features = network.visual_projection(pooled) if kind == "clip" else pooled
        by_hand = features[0] / features[0].norm() @ weights["weight"][0] + 5
        assert row["score"] == pytest.approx(float(by_hand), abs=1e-4)
        assert len(bytes.fromhex(row["embedding_hash"])) == 16
    best = sorted(rows, key=lambda name: -rows[name]["score"])[:4]
    out = tmp_path / "best"
    fields = (f"score.model={model}", f"score.head={head}", "select.count=4")
    chosen = run(pipeline_of(out, f"input.path={photos}", *fields))
    assert {name for name, row in chosen.items() if row["kept"]} == {*best}


@pytest.mark.slow
def test_images_of_one_meaning_are_found_by_their_features(photos, tmp_path):
    """A crop that no hash of pixels finds; the random network's features change little with it."""
    write_images(photos, 1, first=0)
    with Image.open(photos / "000.jpg") as image:
        image.crop((2, 2, 94, 94)).save(photos / "crop.jpg")
    (photos / "crop.txt").write_text("cropped")
    model = save_features("siglip", tmp_path / "siglip")
    asked = (f"input.path={photos}", f"score.model={model}", "deduplicate={max_distance: 0, max_embedding_distance: 8}")
    row = run(pipeline_of(tmp_path / "out", *asked))["crop.jpg"]
    assert row["stage"] == "similar" and row["reason"].startswith("a meaning near that of ")


def test_captions_of_a_model_and_of_the_rows_are_mixed(photos, tmp_path):
    model = save_captioner(tmp_path / "llava")
    (photos / "003.txt").unlink()  # it has none
    caption = f"caption={{model: {model}, keep_original: 0.5, max_tokens: 5, prompt: Describe this}}"
    rows = run(pipeline_of(tmp_path / "out", f"input.path={photos}", caption))
    own = [row for row in rows.values() if row["captioner"] is None]
    written = [row for row in rows.values() if row["captioner"] == str(model) and row["kept"]]
    assert 2 <= len(own) <= 8 and all(row["caption"] == row["original_caption"] for row in own)
    assert all({*row["caption"].split()} <= {*WORDS} and row["caption"] for row in written)
    assert rows["003.jpg"]["captioner"] == str(model) and rows["003.jpg"]["original_caption"] == ""
    assert yaml.safe_load((tmp_path / "out" / "pipeline.yaml").read_text())["caption"]["prompt"] == "Describe this"


def test_a_batch_is_described_as_its_images_alone(tmp_path):
    ask = LocalModel(CaptionConfig(model=str(save_captioner(tmp_path)), prompt="Describe this", max_tokens=6))
    images = [Image.new("RGB", (40, 40 + 10 * n), (50 * n, 99, 200 - 60 * n)) for n in range(3)]
    assert ask(images) == [ask([image])[0] for image in images]


def test_a_model_that_fails_costs_the_image_it_fails_on(photos, tmp_path, monkeypatch):
    model, head = save_features("clip", tmp_path / "clip"), save_head(12, tmp_path / "head.safetensors")
    features = ImageFeatures.__call__

    def fails(self, images):
        if any(image.getpixel((0, 0)) == bad for image in images):
            raise RuntimeError("out of memory")
        return features(self, images)

    with Image.open(photos / "004.jpg") as image:
        bad = image.convert("RGB").getpixel((0, 0))
    monkeypatch.setattr(ImageFeatures, "__call__", fails)
    rows = run(pipeline_of(tmp_path / "out", f"input.path={photos}", f"score.model={model}", f"score.head={head}"))
    lost = {name: (row["stage"], row["reason"]) for name, row in rows.items() if not row["kept"]}
    assert lost == {"004.jpg": ("score", "the model failed: out of memory")}


@contextmanager
def captioning():
    """A server that says the sides of what it is shown; it fails first, and never likes an upright image."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, asked["model"], self.headers["Authorization"]))
            picture, text = asked["messages"][0]["content"]
            image = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
            status = 503 if len(seen) == 1 else 400 if image.height > image.width else 200
            said = {"choices": [{"message": {"content": f"{text['text']} {image.width}\n x {image.height}"}}]}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/", seen
        server.shutdown()


def test_a_server_describes_images_and_a_refusal_costs_its_image(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr("e2ed2.curation.stages.caption.WAITS", (0.01, 0.01))
    Image.new("RGB", (70, 90), "red").save(photos / "tall.png")
    with captioning() as (url, seen):
        caption = f"caption={{model: seer, server: '{url}', prompt: Seen}}"
        rows = run(pipeline_of(tmp_path / "out", f"input.path={photos}", caption, "deduplicate=null"))
    assert {row["caption"] for row in rows.values() if row["kept"]} == {"Seen 96 x 96"}
    assert rows["tall.png"]["reason"] == "the model failed: HTTP Error 400: Bad Request"
    assert {*seen} == {("/v1/chat/completions", "seer", "Bearer secret")}
    assert "secret" not in (tmp_path / "out" / "pipeline.yaml").read_text()


@pytest.mark.slow
def test_models_and_heads_that_cannot_be_are_one_line(photos, tmp_path):
    save_file({"weights": torch.zeros(1)}, tmp_path / "other.safetensors")
    model, seven = save_features("clip", tmp_path / "clip"), save_head(7, tmp_path / "seven.safetensors")
    for name, fields, said in (
        ("a", [f"score.model={tmp_path / 'none'}"], "^score.model .*none: cannot be loaded"),
        ("b", [f"score.model={model}", f"score.head={tmp_path / 'other.safetensors'}"], "^score.head .*cannot be read"),
        ("c", [f"score.model={model}", f"score.head={seven}"], "^score.head .*: for features of 7, .* gives 12"),
        ("d", [f"caption.model={model}"], "^caption.model .*: "),
    ):
        with pytest.raises(UserError, match=said):
            curate(pipeline_of(tmp_path / name, f"input.path={photos}", *fields), silent)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "set OPENAI_API_KEY"), (403, "a key that may"), (404, "/v1"), (429, "not overloaded"),
        (503, "not overloaded"), (400, None),
    ],
)  # fmt: skip
def test_a_server_that_refuses_whatever_the_image_ends_the_run(status, remedy, photos, monkeypatch):
    def refuses(request, timeout):
        asked.append(request)
        raise HTTPError(request.full_url, status, "because", {}, None)

    asked = []
    monkeypatch.setattr(captions, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(captions, "urlopen", refuses)
    describe = captions.captioner(CaptionConfig(model="seer", server="http://there/v1"), 0)
    items = [Item(0, "a", "here", str(photos / "000.jpg"))]
    if remedy is None:
        describe(items)
        assert items[0].reason == "the model failed: HTTP Error 400: because"
        return
    with pytest.raises(UserError, match=f"^caption.server http://there/v1: no caption .*{status}: because.*{remedy}"):
        describe(items)
    assert len(asked) == (3 if status in (429, 503) else 1)
