"""`README.md` of a model folder: how to call the model with plain diffusers, and how it came about."""

import codecs
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from e2ed2.models.families import Family
from e2ed2.models.folders.inference import Inference
from e2ed2.system.errors import UserError
from e2ed2.system.files import write_file
from e2ed2.system.readers.text import read_bytes

CALLBACKS = {  # argument of the pipeline's call -> parameters and end of the function it takes
    "callback": ("step, timestep, latents", ""),
    "callback_on_step_end": ("pipeline, step, timestep, kwargs", "    return kwargs\n"),
}
CARD_FILE = "README.md"
MEASURED = "## Measured"
LICENCE = r"^(license(?:_name|_link)?):[ \t]*(\S.*)$"
HEAD = ("license", "license_name", "license_link", "base_model")
PROMPT, SEED = "red apple, twemoji style", 0  # of the bundled models
NO_FILTER = ", safety_checker=None"
WITHOUT_FILTER = (
    "Neither it nor `e2ed2 sample` runs the safety checker in this folder, which blackens pictures: drop that argument "
    "to have it.\n"
)
LABELS = (
    "Images it makes are synthetic: label them so. `e2ed2 sample` does, in their metadata and, with the extra\n"
    "`provenance`, by a signed C2PA manifest and, from 256 pixels a side on, an imperceptible mark. The code above\n"
    "does not.\n"
)


def model_card(
    inference: Inference,
    family: Family,
    network_class: str,
    about: Mapping[str, Any],
    prompt: str = PROMPT,
    *,
    has_filter: bool = False,
) -> str:
    """How to call the model with plain diffusers, and `about`: what is known of its making, one table row each.

    Args:
        network_class: diffusers' class of the denoiser. about: those of `HEAD` also head the file.
        prompt: that the code draws. has_filter: whether the folder has a safety checker, which no sample passes.
    """
    code = code_of(inference, family, network_class, prompt, has_filter=has_filter)
    return f"""{_head(about)}# A few-step model made with e2ed2

A pipeline's call has defaults of its own (steps, guidance); this model wants {inference.nfe} network evaluations:

```python
{code}
```

Run inside this folder, it draws what `e2ed2 sample . {_argument(prompt)} --seed {SEED} --num 1` draws.
{WITHOUT_FILTER if has_filter else ""}{_fewer(inference)}\
{LABELS}{_table(about)}"""


def code_of(
    inference: Inference,
    family: Family,
    network_class: str,
    prompt: str,
    seed: int = SEED,
    folder: str = ".",
    *,
    has_filter: bool = False,
) -> str:
    """The model's exact call with plain diffusers, as Python; arguments as of `model_card`."""
    imports, swap, callback = "import torch\nfrom diffusers import DiffusionPipeline", "", ""
    where = json.dumps(folder, ensure_ascii=False)
    if inference.transformers is not None:  # the pipeline runs one; after each step the next takes its place
        imports += f", {network_class}"
        parameters, end = CALLBACKS[family.step_callback]
        swap = f"""names = {inference.transformers}
networks = [{network_class}.from_pretrained({where}, subfolder=name, dtype=torch.float32) for name in names]


def use_next({parameters}):
    pipeline.{family.network} = networks[(step + 1) % len(networks)]
{end}

"""
        callback = f"    {family.step_callback}=use_next,\n"
    arguments = "".join(f"    {name}={value},\n" for name, value in inference.call(family).items())
    return f"""{imports}

prompt, seed = {_literal(prompt)}, {seed}
pipeline = DiffusionPipeline.from_pretrained({where}, dtype=torch.float32{NO_FILTER if has_filter else ""})
{swap}image = pipeline(
    {family.prompt_argument},
    generator=torch.Generator().manual_seed(seed),
{arguments}{callback}).images[0]"""


def _literal(prompt: str) -> str:
    """A prompt as Python in a fenced block: without a backtick, which could end it."""
    quoted = json.dumps(prompt, ensure_ascii=False) if prompt.isprintable() else repr(prompt)
    return quoted.replace("`", "\\x60")


def _argument(prompt: str) -> str:
    """A prompt as a shell's argument in a line of code, or that it is the same."""
    fits = prompt.isprintable() and "`" not in prompt
    return (shlex.quote(prompt) if set('"\\$!') & set(prompt) else f'"{prompt}"') if fits else "PROMPT"


def _fewer(inference: Inference) -> str:
    calls = []
    for k, grid in inference.own_grids.items():
        if k < inference.num_inference_steps:
            call = replace(inference, num_inference_steps=k, timesteps=grid, fewer_timesteps=None).steps()
            calls += [f"`{name}={value}`" for name, value in call.items()]
    return f"For fewer steps it has grids of its own: {', '.join(calls)}.\n" if calls else ""


def add_measured(folder: Path, text: str) -> None:
    """End the card of a model folder with what was measured of it, in the place of what was said before.

    Args:
        text: Markdown.
    """
    head = _card(folder).partition(MEASURED)[0].rstrip()
    write_file(folder / CARD_FILE, f"{head}\n\n{MEASURED}\n\n{text}".encode())


def licence_of(folder: Path) -> dict[str, str]:
    """What the head of a model folder's card says of the licence: `license`, `license_name`, `license_link`."""
    found = re.findall(LICENCE, head_of(folder), re.M)
    return {name: text.strip() for name, text in found if text.isprintable()}


def head_of(folder: Path) -> str:
    """The YAML that heads a model folder's card, empty where there is none."""
    head = re.match(r"---\n(.*?)\n---", _card(folder), re.S)
    return head[1] if head else ""


def _card(folder: Path) -> str:
    """What can be read of a card, empty where there is none; nothing in it is worth stopping a run."""
    try:
        content = read_bytes(folder / CARD_FILE, "card", "")
    except UserError:
        return ""
    return content.removeprefix(codecs.BOM_UTF8).decode(errors="replace").replace("\r\n", "\n").replace("\0", "?")


def _head(about: Mapping[str, Any]) -> str:
    """The YAML that model hubs read."""
    lines = [f"{name}: {about[name]}\n" for name in HEAD if about.get(name)]
    return f"---\nlibrary_name: diffusers\npipeline_tag: text-to-image\n{''.join(lines)}---\n\n" if about else ""


def _table(about: Mapping[str, Any]) -> str:
    rows = "".join(f"| {name.replace('_', ' ')} | {value} |\n" for name, value in about.items() if value)
    return f"\n| made from | |\n|---|---|\n{rows}" if rows else ""
