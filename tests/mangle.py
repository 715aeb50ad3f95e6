"""Files as a broken disk, another program or a hasty hand leaves them; whoever reads them must say so in one line.

Tests mangle a few times; `E2ED2_MANGLED=2000 python -m pytest -k mangled` mangles each reader so often. `make fuzz`
mangles each for `E2ED2_FUZZ` seconds of processor time, every time from another seed; a failure names its seed, at
which `E2ED2_SEED` begins. A reader is a test: the cases of one share its time.
"""

import contextlib
import copy
import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2ed2.system.errors import UserError, refusal

MAX_SECONDS = 20.0  # of one reading
MAX_GROWTH = 2**30  # of the process, over all readings of a test
CASES: Counter[str] = Counter()  # test -> how many cases it has, which `conftest.py` counts
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**39, 1.5, -0.0, 1e308, float("inf"), float("nan"),
    "", "x", "\0", "a cat \ud83d", "../../x", "/", "é" * 300, "9" * 5000,
    [], [[]], [None], ["x", 1], {}, {"x": 1}, {"": {}}, [1e308] * 3,
]  # fmt: skip


def times(few: int = 40) -> Iterator[int]:
    """Seeds: `few`, or as many as E2ED2_MANGLED says, or new ones for so many seconds as E2ED2_FUZZ says."""
    seconds, first = os.environ.get("E2ED2_FUZZ"), os.environ.get("E2ED2_SEED")
    if seconds is None:
        start = int(first or 0)
        yield from range(start, start + int(os.environ.get("E2ED2_MANGLED", few)))
        return
    test = os.environ["PYTEST_CURRENT_TEST"].partition("[")[0]
    until, seed = _worked() + float(seconds) / max(1, CASES[test]), int(first or time.time_ns() // 10**6)
    while _worked() < until:
        yield seed
        seed += 1


def _worked() -> float:
    """Processor seconds so far, of children too: a busy machine makes no reader less tried."""
    return sum(os.times()[:4])


def mangled_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut off, with bytes changed, doubled, removed or put in, or empty."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(7):
            case 0:
                del data[place:]
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = rng.randbytes(length)
            case 3:
                data[place : place + length] = rng.randbytes(length)
            case 4:
                data[place : place + 1] = bytes([data[place] ^ (1 << rng.randrange(8))]) if place < len(data) else b""
            case 5:
                data[place:place] = data[place : place + length]
            case 6:
                odd = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b'"', b"{", b"[" * 3000)
                data[place : place + length] = rng.choice(odd)
    return bytes(data)


def mangled_values(values: Any, rng: random.Random) -> Any:
    """JSON values with one to three of them of another kind, missing, renamed, repeated or nested."""
    values = copy.deepcopy(values)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(values))
        if not places:
            return rng.choice(ODD)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0 | 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(ODD))
            case 3:
                del holder[key]
            case 4 if isinstance(holder, dict):
                holder[rng.choice(("x", "", "é", "\0", str(key) + "_"))] = holder.pop(key)
            case _:
                holder[key] = [holder[key]] * rng.choice((1, 2, 70))
    return values if rng.random() > 0.03 else rng.choice(ODD)


def mangled_json(values: Any, rng: random.Random) -> bytes:
    """A JSON file of mangled values, or with mangled bytes."""
    text = json.dumps(values if rng.random() < 0.3 else mangled_values(values, rng)).encode()
    return text if rng.random() < 0.6 else mangled_bytes(text, rng)


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key or index) of everything within."""
    keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key
        yield from _places(values[key])


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails a test in which the process grows without measure."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < MAX_GROWTH, f"{grown / 2**30:.1f} GiB"


def share_taken(damage: Callable[[random.Random], object], read: Callable[[], object], few: int = 40) -> float:
    """Of one damage after another, how many `read` takes; it refuses the rest in one line, in bounded memory.

    A test asserts that this is neither 0 nor 1: a reader that refuses everything, or takes everything, was not tried.
    """
    taken = []
    with bounded_memory():
        for seed in times(few):
            damage(random.Random(seed))
            taken.append(read_or_refuse(read, seed))
    return sum(taken) / len(taken)


def read_or_refuse(read: Callable[[], object], seed: int) -> bool:
    """Whether `read` took a mangled file; it may refuse it in one line, and do nothing else.

    Fails where it raises anything but `UserError`, where the message has several lines or cannot be printed, and where
    it takes too long.
    """
    started = time.monotonic()
    try:
        read()
    except UserError as error:
        message = str(error)
        message.encode()  # half a character could not be printed
        assert message and "\n" not in message.strip(), f"seed {seed}: {message!r}"
        return False
    except OSError as error:  # of a path that the machine refuses, which the command line puts into one line
        assert refusal(error) is not None, f"seed {seed}: {error!r}"
        return False
    except Exception as error:
        pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    finally:
        assert time.monotonic() - started < MAX_SECONDS, f"seed {seed} took too long"
    return True
