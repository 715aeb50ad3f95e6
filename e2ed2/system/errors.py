"""How a run may end early: by what the user can mend (exit 2) or by a diverged training (exit 1)."""

import errno
import re

OUT_OF_MEMORY = (
    "memory is full: lower train.micro_batch_size and raise train.gradient_accumulation_steps, set "
    "model.gradient_checkpointing and trajectory.gradient_checkpointing, or lower --batch-size; docs/models.md counts"
)
# What a machine refuses, whatever the path is for.
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT}

DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}  # what packages are called whose modules have other names

UNPRINTABLE = re.compile(r"[\ud800-\udfff\x00]")  # half of a character, and NUL: nothing can encode or hold them
# What moves a terminal's cursor, changes its colours or turns the direction of writing; newlines and tabs are left.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MAX_SAID = 300  # letters of a library's message


class UserError(ValueError):
    """Something the user can mend. One line: the field or file, the bad value, what is allowed, the remedy."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


class NonFiniteError(RuntimeError):
    """A loss term or gradient stopped being finite; names the term and the global step."""


def one_line(text: object) -> str:
    """A text that any terminal prints on one line, whatever it quotes."""
    return harmless(" ".join(str(text).split()))


def printable(text: str) -> str:
    """The same for pages and pictures: what has no picture of its own is left out."""
    whole = text.encode("utf-8", "replace").decode()
    return " ".join("".join(letter if letter.isprintable() else " " for letter in whole).split())


def harmless(text: str) -> str:
    """A text that any terminal prints and none is steered by, its lines kept."""
    return STEERING.sub("?", text)


def said(error: BaseException) -> str:
    """What an error of a library says, as a part of one line."""
    text = one_line(error) or type(error).__name__
    return text if len(text) <= MAX_SAID else text[:MAX_SAID] + "..."


def out_of_memory(error: BaseException) -> str | None:
    """One line on a memory that is full, as torch or numpy say it, which are not imported here; None on all else."""
    text = one_line(error)
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU's {OUT_OF_MEMORY} ({text.partition('. ')[0]})"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: " in text:
        asked = re.search(r"allocate \S+ \w+", text)
        return f"this machine's {OUT_OF_MEMORY} ({asked[0] if asked else said(error)})"
    return None


def refusal(error: OSError) -> str | None:
    """One line on a path that cannot be used; None where the error is of another kind."""
    if error.filename is None or error.errno not in REFUSALS:
        return None
    return f"{error.filename}: {error.strerror}; name another, or mend this one"


def missing_extra(error: BaseException) -> str | None:
    """One line on a package that one of our extras brings, if that is what an error, or what caused it, is about."""
    from importlib.metadata import requires  # slow to load, and of use only here

    while not isinstance(error, ModuleNotFoundError):
        if error.__cause__ is None:
            return None
        error = error.__cause__
    module = (error.name or "").partition(".")[0]
    package = DISTRIBUTIONS.get(module, module.replace("_", "-"))
    for needed in requires("e2ed2") or []:
        found = re.match(r"([\w-]+).*; extra == '(\w+)'", needed)
        if found is not None and found[1].lower() == package:
            return f"{package} is not installed: run `pip install 'e2ed2[{found[2]}]'`"
    return None


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raise UserError when a number is out of range."""
    if not low <= value <= high:
        raise UserError(f"{name} {value}: must be {low} to {high}")
