"""Tiny models and a tiny emoji set, so that whole commands run in seconds."""

import json
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: workers share the cores, and so do their children
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from e2ed2.emoji.dataset import STYLES, EmojiSet, styled_caption
from e2ed2.models.folders import bundled
from e2ed2.sampling.generate import Sampler
from tests import mangle
from tests.models.tiny import SIDE

pytest_plugins = ["tests.evaluation.tiny"]  # fixtures of several rooms

# What a terminal, a launcher or a git hook leaves in the environment, and children of tests would inherit.
FOREIGN = {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "RANK", "LOCAL_RANK", "WORLD_SIZE"}
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, which children would inherit too


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection() -> None:
    """Every training collects garbage several times, each through all that libraries have loaded: that stays."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/golden anew, see training/test_golden.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mangle.CASES.update(item.nodeid.partition("[")[0] for item in items)


@pytest.fixture(scope="session", autouse=True)
def known_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name in FOREIGN or name.startswith(("GIT_", "E2ED2_SIGNING_", "E2ED2_TRUSTED_")):
                patch.delenv(name)
        base = tmp_path_factory.getbasetemp()  # what is kept, such as drawn emoji, is the same for all workers
        patch.setenv("E2ED2_CACHE", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        patch.setenv("E2ED2_CONFIG", str(base / "config"))  # no key of the user's, and none for him
        if sys.platform == "linux":
            patch.setenv("GLOO_SOCKET_IFNAME", "lo")  # not what the machine's name resolves to
        yield


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks up another machine is told at once that there is none."""
    look_up = socket.getaddrinfo

    def only_here(host: Any, *args: Any, **options: Any) -> Any:
        if host in (None, "", "localhost", "127.0.0.1", "::1"):
            return look_up(host, *args, **options)
        raise socket.gaierror(socket.EAI_NONAME, f"tests do not ask {host}")

    if request.node.get_closest_marker("download") is None:
        monkeypatch.setattr(socket, "getaddrinfo", only_here)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """As on a terminal: a job started in the background is deaf to Ctrl-C, and so would be its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate remembers the precision of the first run of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in child processes that are told so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few-step pipeline folder of random weights for 64 px images, its text encoder random and tiny too."""
    from diffusers import PixArtAlphaPipeline
    from transformers import AutoTokenizer, BertConfig, BertModel

    from e2ed2.models.folders.inference import Inference
    from e2ed2.models.folders.pipeline import save_pipeline
    from e2ed2.models.scheduler import noise_scheduler
    from e2ed2.models.text import minilm_folder

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    bert = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    pipeline = PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=BertModel(bert),
        vae=tiny_autoencoder(),
        transformer=tiny_transformer(caption_channels=32),
        scheduler=noise_scheduler("lcm", "v_prediction"),
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    folder.mkdir()
    save_pipeline(pipeline, Inference("lcm", 4, 1.0, 64, 64), folder)
    return folder


def tiny_autoencoder() -> torch.nn.Module:
    """64 px images <-> 16x16x4 latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=64,
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=1.0,
    )


def tiny_transformer(caption_channels: int) -> torch.nn.Module:
    """One block of width 32, its last layer not zero as PixArt's would be, so that the prompt and noise matter."""
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        sample_size=16,
        patch_size=4,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=caption_channels,
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    )


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Four captioned pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, caption in enumerate(["a red cat", "a dog", "a tree", "the moon"]):
        pixels = torch.randint(256, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).resize((SIDE, SIDE)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


@pytest.fixture
def tiny_emoji(monkeypatch: pytest.MonkeyPatch) -> EmojiSet:
    """24 emoji in two styles, smooth random pictures; whoever loads the emoji set gets these."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(48, 3, 6, 6, generator=generator)
    images = (torch.nn.functional.interpolate(coarse, 64, mode="bicubic").clamp(0, 1) * 255).byte()
    words = "apple bus cat dog egg fish gem hat ice jar key leaf moon nut owl pen queen ring sun tree urn van whale yak"
    names = [word for word in words.split() for _ in STYLES]
    styles = list(STYLES) * 24
    captions = [styled_caption(n, s) for n, s in zip(names, styles, strict=True)]
    data = EmojiSet(images=images, captions=captions, keys=captions, styles=styles, names=names)
    for module in ("e2ed2.emoji.protocols", "e2ed2.training.latents.training_set"):
        monkeypatch.setattr(f"{module}.load_emoji", lambda split, progress=None: data)
    return data


@pytest.fixture
def tiny_bundle(tmp_path, monkeypatch, tiny_emoji) -> Path:
    """Bundled models of random weights, a shipped evaluation for one of them, and a cache of their own."""
    from e2ed2.models.folders.inference import Inference

    torch.manual_seed(0)
    weights = tmp_path / "weights"
    tiny_autoencoder().half().save_pretrained(weights / "emoji-autoencoder")
    for name, inference in {
        "emoji-base": Inference("ddim", 25, 2.0, 64, 64),
        "emoji-lcm": Inference("lcm", 4, 1.0, 64, 64),
        "emoji-e2ed2": Inference("lcm", 4, 1.0, 64, 64),
    }.items():
        tiny_transformer(caption_channels=384).half().save_pretrained(weights / name)
        (weights / name / "inference.json").write_text(json.dumps(vars(inference)))
    metrics = {"kernel_distance": {"value": 1.0, "low": 0.9, "high": 1.1}}
    about = {"protocol": "emoji", "protocol_sha256": "a" * 64, "num_images": 1024, "reference": "r"}
    row = {**about, "metrics": metrics, "command": "e2ed2 evaluate"}
    for folder, file, model, nfe in (
        ("emoji-base", "emoji-50", "emoji-base", 50),
        ("emoji-e2ed2", "emoji-4", "emoji-e2ed2", 4),
        ("emoji-autoencoder", "real", "real", 0),
    ):
        (weights / folder / "evaluation").mkdir()
        (weights / folder / "evaluation" / f"{file}.json").write_text(json.dumps({"model": model, "nfe": nfe, **row}))
    monkeypatch.setattr(bundled, "WEIGHTS", weights)
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    return weights


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 128 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def num_sampled(monkeypatch) -> list[int]:
    """Grows by the number of images whenever some are sampled."""
    counts: list[int] = []
    plain = Sampler.__call__
    monkeypatch.setattr(
        Sampler, "__call__", lambda self, requests, *rest: counts.append(len(requests)) or plain(self, requests, *rest)
    )
    return counts
