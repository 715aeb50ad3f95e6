"""Pictures on demand: the same as `e2ed2 sample` draws, labelled, from models that are there and no others."""

import io
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from e2ed2.provenance.verify import verify
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.web.painter import MOST_LOADED


@pytest.fixture
def with_model(runs, tiny_model):
    """A run whose model can draw."""
    shutil.copytree(tiny_model, runs / "one" / "model")
    return runs / "one" / "model"


ASKED = {"model": "one/model", "prompt": "a red fox", "seed": "7", "steps": "2"}


def test_a_picture_is_what_sample_draws_and_says_that_it_is_made(client, with_model, tmp_path):
    text = client.post("/try/draw", data=ASKED).text
    assert "2 steps, 2 NFE, seed 7" in text
    address = re.search(r'src="(/try/picture/[\w-]+\.png)"', text)[1]
    content = client.get(address).content
    expected = load_model(str(with_model), 2).sampler([Request("a red fox", 7)])[0]
    with Image.open(io.BytesIO(content)) as picture:
        assert torch.equal(torch.from_numpy(np.array(picture)).permute(2, 0, 1), expected)
    (tmp_path / "saved.png").write_bytes(content)
    assert verify(tmp_path / "saved.png").generated is True
    assert client.get("/try/picture/guess.png").status_code == 404


def test_the_command_and_the_code_that_make_it_again(client, with_model):
    text = client.post("/try/draw", data=ASKED | {"steps": "4"}).text
    command, code = (
        part.replace("&#39;", "'").replace("&#34;", '"') for part in re.findall(r"<pre>(.*?)</pre>", text, re.S)
    )
    assert command == f"e2ed2 sample {with_model} 'a red fox' --num 1 --seed 7 --steps 4"
    names: dict = {}
    exec(code, names)
    made = torch.from_numpy(np.array(names["image"])).permute(2, 0, 1)
    expected = load_model(str(with_model)).sampler([Request("a red fox", 7)])[0]
    assert (made.int() - expected.int()).abs().max() <= 1, "plain diffusers rounds its own way"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"model": "../secret"}, "there is none"), ({"model": "/etc"}, "is none"), ({"model": "one/samples"}, "none"),
     ({"model": "one/best"}, "there is none"), ({"prompt": " "}, "give 1 to 2,000"), ({"prompt": "x" * 2001}, "2,001"),
     ({"seed": "-1"}, "whole numbers"), ({"seed": "x"}, "whole numbers"), ({"steps": "9"}, "must be 1 to 8"),
     ({"seed": "99999999999"}, "must be 0 to")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(client, with_model, change, said):
    response = client.post("/try/draw", data=ASKED | change)
    assert response.status_code == 422 and said in response.text, response.text[-500:]


def test_a_model_that_is_being_written_is_said_and_drawn_when_it_is_there(client, with_model):
    weights = next(with_model.glob("transformer/*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert client.post("/try/draw", data=ASKED).status_code == 422
    weights.write_bytes(whole)
    assert client.post("/try/draw", data=ASKED).status_code == 200


def test_models_are_loaded_once_anew_when_written_and_few_at_a_time(client, runs, with_model, monkeypatch):
    loaded = []

    def counted(path, steps=None):
        loaded.append(path)
        return load_model(path, steps)

    monkeypatch.setattr("e2ed2.sampling.model.load_model", counted)
    for steps in ("1", "2", "4", "2"):
        assert client.post("/try/draw", data=ASKED | {"steps": steps}).status_code == 200
    assert len(loaded) == 1
    (with_model / "model_index.json").touch()
    client.post("/try/draw", data=ASKED)
    assert len(loaded) == 2
    for number in range(MOST_LOADED + 1):
        shutil.copytree(with_model, runs / "one" / "evaluation" / "start", dirs_exist_ok=True)
        (runs / "one" / "evaluation" / "start" / "model_index.json").touch()
        client.post("/try/draw", data=ASKED | {"model": "one/evaluation/start", "seed": str(number)})
    assert client.post("/try/draw", data=ASKED).status_code == 200 and loaded[-1] == str(with_model), "it had to go"


def test_the_form_offers_what_ships_and_what_runs_made(client, with_model):
    text = client.get("/try?model=one/model").text
    assert 'value="emoji-e2ed2"' in text and re.search(r'value="one/model" checked', text)
