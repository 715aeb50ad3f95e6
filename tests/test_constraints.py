"""`constraints.txt`: what a wheel was released with is what pyproject.toml allows, hashed, with no addresses."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "constraints.txt").read_text()
EXTRAS = ("train", "emoji", "provenance")
PINS = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def test_every_requirement_is_pinned_to_what_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(line) for line in [*project["dependencies"], *sum((extras[e] for e in EXTRAS), [])]]
    pinned: dict[str, list[str]] = {}
    for pin in PINS:
        name, version = re.match(r"([\w.-]+)==(\S+)", pin).groups()
        pinned.setdefault(name, []).append(version)
    assert len(wanted) > 20
    for requirement in wanted:
        versions = pinned[requirement.name.lower().replace("_", "-")]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_every_pin_has_hashes_and_no_address():
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", pin) for pin in PINS)
    assert "://" not in TEXT and "--index-url" not in TEXT and "@" not in TEXT
