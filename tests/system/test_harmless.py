"""What SECURITY.md promises of the whole package: nothing unpickles, runs a file's code, or unpacks an archive."""

import ast
import io
import tarfile
from pathlib import Path

import pytest

from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.shards import tar_shards
from tests.data.conftest import png

ROOT = Path(__file__).parents[2]
FILES = [path for path in sorted((ROOT / "e2ed2").rglob("*.py")) if path.name != "convert.py"]  # run by hand, once
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
METHODS = {"extractall", "unpack_archive", "unsafe_load", "full_load"}


def offences(code: str) -> list[str]:
    """What in a file's code could run or write what a file says."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.append(f"from {node.module}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULES:
            found += [] if node.attr.endswith("Error") else [ast.unparse(node)]  # to catch one is to load nothing
        if not isinstance(node, ast.Call):
            continue
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        called = ast.unparse(node.func)
        if called in CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
            found.append(called)
        if called == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load without weights_only")
        risky = {"allow_pickle": "False", "trust_remote_code": "False", "shell": "False"}
        found += [f"{name}={options[name]}" for name, safe in risky.items() if options.get(name, safe) != safe]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_of_ours_unpickles_or_runs_what_it_reads(file):
    assert offences(file.read_text()) == []


@pytest.mark.parametrize(
    "code",
    [
        "pickle.load(file)", "from dill import load", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)", "tar.extractall(folder)", "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)", "subprocess.run(line, shell=True)",
    ],
)  # fmt: skip
def test_such_code_would_be_found(code):
    assert len(offences(code)) == 1


def test_members_of_a_shard_are_never_unpacked(tmp_path, monkeypatch):
    """Paths that lead out, links and devices: read as items where they are files, else passed over."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    with tarfile.open(inside / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, target in (
            ("../../out", tarfile.REGTYPE, ""), ("/tmp/e2ed2-absolute", tarfile.REGTYPE, ""),
            ("link", tarfile.SYMTYPE, "../secret"), ("hard", tarfile.LNKTYPE, "../secret"),
            ("device", tarfile.CHRTYPE, ""), ("pipe", tarfile.FIFOTYPE, ""),
        ):  # fmt: skip
            for suffix, content in ((".png", png(1, (4, 4))), (".txt", b"a cat")):
                member = tarfile.TarInfo(name + suffix)
                member.type, member.linkname = kind, target
                member.size = len(content) if kind == tarfile.REGTYPE else 0
                tar.addfile(member, io.BytesIO(content) if member.size else None)
    before = sorted(tmp_path.rglob("*"))
    (shard,) = tar_shards(str(inside / "0.tar"), Columns())
    assert [item.key for item in shard(0)] == ["../../out", "/tmp/e2ed2-absolute"]
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/e2ed2-absolute.png").exists()
