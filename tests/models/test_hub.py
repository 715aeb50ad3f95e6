"""Hub ids: which names are one, where the folder comes from, and a remedy for every way it can fail."""

from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.hub import is_hub_id, weights_file
from e2ed2.system.errors import UserError


@pytest.mark.parametrize("name", ["org/name", "PixArt-alpha/PixArt-LCM-XL-2-1024-MS", "a_b/c.d"])
def test_ids_are_told_from_paths(name):
    assert is_hub_id(name)
    assert not any(is_hub_id(path) for path in (f"./{name}", f"/{name}", f"runs/{name}", "name", "org/"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`hub(error)`: what a download raises; None gives a folder. Returns the calls."""
    calls = []

    def answer(error=None):
        def download(repo, **options):
            calls.append((repo, options))
            if error is not None:
                raise error
            return str(tmp_path)

        monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, revision: calls.append(name))
        return calls

    return answer


def test_an_id_is_fetched_as_safetensors_with_its_card_and_call(hub, tmp_path):
    calls = hub()
    assert resolve_model("org/name", "main", "fp16") == tmp_path
    assert calls == [
        ("org/name", {"revision": "main", "variant": "fp16", "use_safetensors": True}),
        "README.md",
        "inference.json",
    ]


def caused(error: Exception) -> Exception:
    """As diffusers hides it: an error of its own with the hub's as the cause."""
    outer = OSError("Cannot load model org/name: the model is not fully cached locally")
    outer.__cause__ = error
    return outer


def response(kind: type[Exception]) -> Exception:
    return kind("no", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (response(errors.GatedRepoError), "gated; accept its licence at https://.*/org/name, then log in"),
        (caused(response(errors.GatedRepoError)), "gated; accept its licence"),
        (response(errors.RepositoryNotFoundError), "no such folder, and no such model on the hub; check the name"),
        (response(errors.RevisionNotFoundError), "has no model.revision v9; give a branch, tag or commit"),
        (caused(ConnectionError("no route")), r".*not to be had from the hub \(Cannot load .* --local-dir DIR"),
        (ValueError("no file named x.safetensors"), r".*not to be had from the hub \(no file named .*model.variant"),
    ],
)
def test_every_failure_is_one_line_with_its_remedy(hub, error, message):
    hub(error)
    with pytest.raises(UserError, match=f"model 'org/name': {message}") as told:
        resolve_model("org/name", "v9")
    assert "\n" not in str(told.value)


def test_a_revision_of_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="model.revision: v9, but model.path=.* is no hub id"):
        resolve_model(tmp_path, "v9")


def test_a_weight_file_is_one_on_disk_or_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert weights_file(str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file: asked.append((repo, file)) or "there")
    assert str(weights_file("org/name/sub/b.safetensors")) == "there" and asked == [("org/name", "sub/b.safetensors")]
    for name in ("nowhere.safetensors", str(tmp_path / "none.safetensors")):
        with pytest.raises(UserError, match="no such file; give a safetensors file, or org/name/file of the hub"):
            weights_file(name)
