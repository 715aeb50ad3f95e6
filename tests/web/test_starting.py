"""What is shown before a fine-tune is started: what was found, what was not, what would be done."""

import io
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.web.conftest import MARKUP


@pytest.fixture
def images(pictures, tmp_path):
    """Four captioned pictures, one without a caption, one that is none, and a link to one elsewhere."""
    folder = tmp_path / "my images"
    shutil.copytree(pictures, folder)
    shutil.copy(folder / "0.png", folder / "bare.png")
    (folder / "torn.png").write_bytes(b"no picture")
    (folder / "torn.txt").write_text("torn")
    (folder / "0.txt").write_text(MARKUP)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (9, 9), "red").save(secret)
    (folder / "link.png").symlink_to(secret)
    (folder / "link.txt").write_text("a link")
    return folder


def test_what_was_found_and_what_would_be_done(client, runs, images, tiny_model):
    fields = {"model": str(tiny_model), "data": str(images), "name": "new", "updates": "3"}
    text = client.post("/start/look", data=fields).text
    assert "5 images to train on" in text and "2 left out" in text
    assert "<code>torn.png</code> not a PNG" in text and "<code>bare.png</code>" in text
    assert "&lt;script&gt;" in text and "<script>alert" not in text
    assert re.search(r"sampler: 1 to 4 steps of lcm", text) and "trained: all" in text
    assert f"e2ed2 finetune --out {runs}/new -- " in text and "train.max_train_steps=3" in text
    assert not (runs / "new").exists(), "nothing is made before it is asked for"
    addresses = re.findall(r'src="(/start/image/[^"]+)"', text)
    answers = [client.get(address) for address in addresses]
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [404], "a link to elsewhere is not shown"
    with Image.open(io.BytesIO(answers[0].content)) as picture:
        assert picture.format == "WEBP"
    with_caption = client.post("/start/look", data=fields | {"prompt": "a thing"}).text
    assert "6 images to train on" in with_caption and "(given)" in with_caption


def test_numbers_are_the_only_way_to_an_image(client, images, tiny_model):
    text = client.post("/start/look", data={"model": str(tiny_model), "data": str(images), "name": "new"}).text
    key = re.search(r"/start/image/([^/]+)/", text)[1]
    for path in ("/start/image/guess/0", f"/start/image/{key}/99", f"/start/image/{key}/..%2f..%2fsecret.png"):
        assert client.get(path).status_code in (404, 422)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"data": ""}, "give both"), ({"data": "/nowhere/at/all"}, "nothing there"), ({"model": "nobody"}, "no such"),
     ({"name": "a/b"}, "give 1 to 64 letters"), ({"name": "one"}, "there is such a run"), ({"updates": "-3"}, "whole"),
     ({"steps": "x"}, "steps"), ({"overrides": "run.dir=/tmp/x"}, "--out"), ({"overrides": "train.lr"}, "override"),
     ({"model": "emoji-base"}, "give --steps")],
)  # fmt: skip
def test_what_cannot_be_is_one_line(client, runs, images, tiny_model, change, said):
    fields = {"model": str(tiny_model), "data": str(images), "name": "new"} | change
    response = client.post("/start/look", data=fields)
    assert response.status_code == 422 and said in response.text
    assert not (runs / "new").exists()


def test_models_are_counted_and_loaded_one_at_a_time(client, images, tiny_model):
    """Libraries of models load themselves bit by bit, and break where two threads do it at once."""
    turn = client.app._app._app.state.desk.painter._turn
    fields = {"model": str(tiny_model), "data": str(images), "name": "new"}
    with ThreadPoolExecutor(1) as pool:
        with turn:
            asked = pool.submit(client.post, "/start/look", data=fields)
            with pytest.raises(TimeoutError):
                asked.result(timeout=0.5)
        assert asked.result(timeout=60).status_code == 200
