"""`examples/cluster/`: the launchers and our program take the commands as they stand there, for the paper's 64 GPUs."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from e2ed2.recipe.load import load_config

ROOT = Path(__file__).parents[1]
FILES = ROOT / "examples" / "cluster"
IMAGE = "REGISTRY/e2ed2:0.1.0"
JOBS = ["slurm.sbatch", "kubernetes.yaml", "skypilot.yaml"]


def expanded(script, tmp_path, **variables):
    """The words that `accelerate` is given when a shell runs the script; `srun` and `scontrol` are of SLURM."""
    programs = {
        "accelerate": 'printf "%s\\n" "$@" > "$WORDS"',
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
        "scontrol": "printf 'node-0\\nnode-1\\n'",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "WORDS": str(tmp_path / "words"), **variables}
    subprocess.run(["bash", "-e", "-c", script], env=env, check=True)
    return (tmp_path / "words").read_text().splitlines()


def slurm(tmp_path):
    script = (FILES / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script, re.M))
    nodes, gpus = options["nodes"], options["gpus-per-node"]
    assert options["ntasks-per-node"] == "1"
    given = {"SLURM_NNODES": nodes, "SLURM_GPUS_PER_NODE": gpus, "SLURM_NODEID": "7"}
    return expanded(script, tmp_path, SLURM_JOB_NODELIST="node-[0-7]", **given), int(nodes) * int(gpus)


def kubernetes(tmp_path):
    trainer = yaml.safe_load((FILES / "kubernetes.yaml").read_text())["spec"]["trainer"]
    assert trainer["image"] == IMAGE
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    return [*trainer["command"], *trainer["args"]], trainer["numNodes"] * trainer["numProcPerNode"]


def skypilot(tmp_path):
    task = yaml.safe_load((FILES / "skypilot.yaml").read_text())
    assert task["resources"]["image_id"] == f"docker:{IMAGE}"
    gpus, nodes = task["resources"]["accelerators"].partition(":")[2], str(task["num_nodes"])
    given = {"SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NUM_GPUS_PER_NODE": gpus, "SKYPILOT_NODE_RANK": "7"}
    script = task["run"].replace("cd /e2ed2\n", "")
    return expanded(script, tmp_path, SKYPILOT_NODE_IPS="node-0\nnode-1", **given), int(nodes) * int(gpus)


@pytest.mark.parametrize("job", [slurm, kubernetes, skypilot])
def test_launchers_and_program_take_the_command(job, tmp_path, monkeypatch):
    words, num_gpus = job(tmp_path)
    if words[0] == "torchrun":
        launched = get_args_parser().parse_args(words[1:])
        module, rest, restarts = launched.training_script, launched.training_script_args, launched.max_restarts
        assert launched.module
    else:
        assert words[0] == "launch"
        launched = launch_command_parser().parse_args(words[1:])
        module, rest, restarts = launched.training_script, launched.training_script_args, launched.max_restarts
        assert launched.module and launched.multi_gpu and launched.num_processes == num_gpus
        assert launched.num_machines == 8 and launched.machine_rank == 7 and launched.main_process_ip == "node-0"
    assert (module, num_gpus, restarts) == ("e2ed2.cli", 64, 3)
    monkeypatch.chdir(ROOT)
    verb, recipe, *overrides = rest
    config = load_config(Path(recipe), overrides)
    assert (verb, recipe) == ("train", "recipes/pixart_delta.yaml") and str(config.data.path) == "/shared/train"
    assert config.run.dir == Path("/shared/runs/pixart_delta")


@pytest.mark.parametrize("name", JOBS)
def test_a_user_edits_two_places(name):
    text = (FILES / name).read_text()
    assert re.findall(r"# EDIT (\d):", text) == ["1", "2"] and IMAGE in text and "docs/cluster.md" in text


@pytest.mark.parametrize("name", JOBS)
def test_what_shards_instead_is_what_the_launcher_takes(name):
    text = (FILES / name).read_text()
    options = re.search(r"instead of DDP: (--use_fsdp.*?)\.\n", text)
    if options is None:
        named = {"ACCELERATE_USE_FSDP=true", "FSDP_VERSION=2", "FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP"}
        assert named == set(re.findall(r"\b[A-Z_]+=\w+", text))
    else:
        launched = launch_command_parser().parse_args([*shlex.split(options[1]), "train.py"])
        assert launched.use_fsdp and launched.fsdp_version in ("2", 2)
        assert launched.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP"


def test_the_image_has_what_the_package_asks_for():
    text = (FILES / "Containerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = re.findall(r"pip install --no-cache-dir (torch==\S+)", text)
    assert torch in project["dependencies"]
    (extras,) = re.findall(r"'\.\[(.*)\]'", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys() and "train" in extras.split(",")
    assert f"-t {IMAGE} " in text and IMAGE.endswith(f":{project['version']}")
    (python,) = re.findall(r"^FROM python:3\.(\d+)-slim$", text, re.M)
    assert 11 <= int(python) <= 13
