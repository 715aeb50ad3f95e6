"""Precision: a choice by hardware, made once per run."""

import pytest
import torch
import yaml

from e2ed2.training import precision
from e2ed2.training.loop import train
from e2ed2.training.precision import has_bf16, resolve_precision

CPU = torch.device("cpu")


def quiet(line):
    pass


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_follows_the_hardware(tiny, monkeypatch, native, expected):
    monkeypatch.setattr(precision, "has_bf16", lambda device: native)
    config = tiny(mixed_precision="auto")
    assert resolve_precision(config, {}, CPU).train.mixed_precision == expected


def test_a_choice_is_kept(tiny):
    config = tiny(mixed_precision="bf16")
    assert resolve_precision(config, {"train": {"mixed_precision": "no"}}, CPU) == config


@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)]
)
def test_cpus_by_their_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert has_bf16(CPU) is expected


def test_a_run_resumes_in_the_precision_it_was_begun_with(tiny, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    train(tiny(mixed_precision="auto", max_train_steps=5), quiet)
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)  # moved to another machine
    config = tiny(mixed_precision="auto")
    train(config, quiet)
    recorded = yaml.safe_load((config.run.dir / "config.yaml").read_text())
    assert recorded["train"]["mixed_precision"] == "no"
