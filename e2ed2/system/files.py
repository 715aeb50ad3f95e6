"""Files and folders that a kill, a full disk or a second process cannot spoil."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from e2ed2.system.errors import UserError

GLANCE = 0.2  # seconds for which a folder may seem taken while others ask `is_locked`


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends well and vanishes when it does not.

    Raises:
        UserError: the disk is full or refuses.
    """
    temporary = final.with_name(final.name + ".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            _sync(path)
        replace_folder(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise_if_disk_refused(final, error)
        raise


def replace_folder(folder: Path, final: Path) -> None:
    """Rename a folder, in the place of what is there."""
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    _sync(final.parent)


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """`atomic_file` for bytes."""
    with atomic_file(path, durable=durable) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary file that replaces `path` at once: a reader or a kill meets the old or the new one, never a half.

    Args:
        durable: wait for the disk; a file that is soon written anew may go with the machine's power.
    Raises:
        UserError: the disk is full or refuses.
    """
    # Processes may write the same file side by side.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise_if_disk_refused(path, error)
        raise


def sweep(folder: Path) -> None:
    """Remove what `atomic_file` had begun in a folder, and those in it, when processes of this machine were killed."""
    ending = re.compile(rf"\..*\.{re.escape(platform.node())}\.(\d+)\.tmp")
    for path in folder.rglob(".*.tmp"):
        if (found := ending.fullmatch(path.name)) and not is_alive(int(found[1])):
            path.unlink(missing_ok=True)


def raise_if_disk_refused(path: Path, error: BaseException) -> None:
    """Turn an error met while writing `path` into a UserError if the disk is at fault; leave others alone."""
    cause: BaseException | None = error
    while isinstance(cause, Exception) and not isinstance(cause, OSError | SafetensorError | UserError):
        cause = cause.__context__  # torch.save hides the disk's error behind one of its own
    if isinstance(cause, OSError):
        reason = cause.strerror or str(cause)
    elif isinstance(cause, SafetensorError) and "I/O error: " in str(cause):
        reason = str(cause).partition("I/O error: ")[2]
    else:
        return
    raise UserError(
        f"{path}: cannot be written ({reason}); nothing saved before is lost: "
        "free space or mend the folder, then run the same command again"
    ) from error


ENDLESS = "not a file but a pipe, a socket or a device"


def is_endless(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device: reading it may never end, or never begin."""
    return path.exists() and not path.is_file() and not path.is_dir()


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Alone in the folder, among processes that ask; a kill releases it.

    Raises:
        OSError: it cannot be opened. BlockingIOError: another process is in it, and we do not wait.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX) if wait else _lock_at_once(descriptor)
        except OSError as error:  # some network disks have no locks
            if isinstance(error, BlockingIOError):
                raise
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool | None:
    """Whether a process is alone in the folder (`locked`); None where the disk has no locks, or the folder is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _lock_at_once(descriptor: int) -> None:
    """Take the lock; whoever only looks holds it for less than a moment."""
    until = time.monotonic() + GLANCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(GLANCE / 10)


def is_alive(pid: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return pid > 0  # other numbers are of groups


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
