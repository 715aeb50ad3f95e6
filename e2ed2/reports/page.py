"""A template of `assets/` as one HTML file, with nothing loaded from elsewhere."""

import base64
import time
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from e2ed2.system.drawing.figures import central, interval
from e2ed2.system.files import write_file

_TEMPLATES = Environment(
    loader=PackageLoader("e2ed2.reports", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip


def moment(seconds: float) -> str:
    """A time since 1970 as people here read it: `30 Nov, 14:05`."""
    return time.strftime("%d %b, %H:%M", time.localtime(seconds)).lstrip("0")


_TEMPLATES.globals |= {"moment": moment, "central": central, "interval": interval}


def asset(name: str) -> Markup:
    """A file of `assets/` as it is, for a page's own text."""
    return Markup((files("e2ed2.reports") / "assets" / name).read_text())


def write_page(path: Path, template: str, **values: object) -> Path:
    """Write the template, filled in; UserError where the disk refuses."""
    write_file(path, _TEMPLATES.get_template(template).render(values).encode())
    return path


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture for a page's own text."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
