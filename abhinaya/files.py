"""Files that are either whole or not there.

Every output is written to a temporary name in the same folder and renamed, so that a killed run
never leaves half a file under the final name.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import functools
import hashlib
import inspect
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from abhinaya.errors import BadValueError, DiskFullError, kind_of
from abhinaya.processes import is_main_process

__all__ = [
    "atomic_folder",
    "atomic_path",
    "digest_of",
    "drop_lock",
    "hash_file",
    "parse_json",
    "read_json",
    "read_json_object",
    "read_text",
    "sole_outputs",
    "sole_writer",
    "take_lock",
    "telling_full_disks",
    "write_csv",
    "write_json",
    "write_text",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it becomes `path` when the block ends without an error."""
    with telling_full_disks(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _claim(path, is_folder=False)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            drop_lock(lock)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it replaces `path` when the block ends without an error."""
    with telling_full_disks(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _claim(path, is_folder=True)
        try:
            yield temporary
            # A folder cannot be replaced in one step; the old one is moved aside first.
            old = path.with_name(f".{path.name}.old")
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            drop_lock(lock)


def _claim(path: Path, *, is_folder: bool) -> tuple[Path, int]:
    """Return an empty temporary file or folder beside a path, and its lock.

    Its name is the same each time, so that whoever writes the path next takes over what a killed
    process has left. While another one is alive and writes it, or where the file system knows no
    locks, the name has the process id: the last rename wins.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    for name in (temporary, path.with_name(f".{path.name}.{os.getpid()}.tmp")):
        if is_folder:
            name.mkdir(exist_ok=True)
        descriptor = os.open(name, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, 0o666)
        _locks.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            is_ours = name != temporary
            if not is_ours and not isinstance(err, BlockingIOError):
                shutil.rmtree(name) if is_folder else name.unlink()
        else:
            is_ours = _is_still(name, descriptor)
        if is_ours:
            break
        drop_lock(descriptor)
    for left in name.iterdir() if is_folder else ():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return name, descriptor


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# As Rust and torch report it, whose errors have no number.
_SOUNDS_FULL = (*map(os.strerror, _FULL), "PytorchStreamWriter", "inline_container")


@contextmanager
def telling_full_disks(path: Path) -> Iterator[None]:
    """Raise one error for all that libraries raise in a block when no more can be written.

    Args:
        path: what is written.

    Raises:
        DiskFullError: then.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as err:
        if getattr(err, "errno", None) not in _FULL and not any(
            sign in str(err) for sign in _SOUNDS_FULL
        ):
            raise
        there = next(folder for folder in path.absolute().parents if folder.exists())
        raise DiskFullError(path, shutil.disk_usage(there).free) from err


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, a byte-order mark left out.

    Raises:
        BadValueError: if it is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadValueError(
            f"{str(path)!r} is not UTF-8 text: {err.reason} at byte {err.start}. "
            "Save it as UTF-8, not as UTF-16."
        ) from err


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON, however damaged it may be.

    Args:
        text: the JSON.
        where: how error messages call it, at the beginning of a sentence.

    Raises:
        BadValueError: if it is no JSON, no UTF-8 or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as err:
        raise BadValueError(f"{where} is nested too deeply for JSON of ours.") from err
    except ValueError as err:  # no UTF-8, no JSON, or a number of thousands of digits
        reason = str(err).partition(";")[0].rstrip(".")
        raise BadValueError(f"{where} is not JSON: {reason}.") from err


def read_json(path: Path) -> Any:
    """Read a JSON file, however damaged it may be.

    Raises:
        BadValueError: if it is no JSON, no UTF-8 or nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as err:
        reason = str(err).partition(";")[0].rstrip(".")
        raise BadValueError(f"{str(path)!r} cannot be read as JSON: {reason}.") from err


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds keys and values.

    Raises:
        BadValueError: if it is not such a file.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise BadValueError(
            f"{str(path)!r} holds {kind_of(content)}, expected keys with values. It is "
            "damaged, or another file; make or copy it again."
        )
    return content


def take_lock(path: Path, *, shared: bool = False) -> int | None:
    """Take a lock that ends with the process, however it ends, or with `drop_lock` of the result.

    Args:
        path: the file that stands for what is locked; it holds the owner's process id and machine.
        shared: let others have it too, if theirs are shared.

    Returns:
        The lock, for `drop_lock`; None if another one has it. Where the file system knows no locks,
        it is as if nobody had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # somebody else's file
        if not path.exists():
            raise
        descriptor, shared = os.open(path, os.O_RDONLY), True
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        shared = True
    if not _is_still(path, descriptor):
        os.close(descriptor)  # the owner before has just deleted it, and others see another file
        return take_lock(path, shared=kind == fcntl.LOCK_SH)
    _locks.add(descriptor)
    if not shared:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


_locks: set[int] = set()
"""What this process has locked."""


def drop_lock(lock: int) -> None:
    """Give up a lock of `take_lock`."""
    _locks.discard(lock)
    os.close(lock)


def _leave_locks() -> None:
    """Stop a forked child from holding locks: they would outlast a parent that is killed."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_leave_locks)


@contextmanager
def sole_writer(path: Path, key: str, *, waits: bool = False) -> Iterator[None]:
    """Keep others from writing the same file or folder during a block.

    In a launch the main process does so for all.

    Args:
        path: what is written.
        key: the option or key that names it, for the message.
        waits: wait for the other one, who takes a moment, rather than refuse.

    Raises:
        BadValueError: if another process does so now; it is named.
    """
    if not is_main_process():
        yield
        return
    whole = path.resolve()
    file = whole.with_name(f".{whole.name}.lock")
    made = [folder for folder in file.parents if not folder.exists()]
    with telling_full_disks(path):
        lock = take_lock(file)
    while lock is None:
        if not waits:
            owner = file.read_text(encoding="utf-8") if file.exists() else ""
            raise BadValueError(
                f"{str(path)!r} is being written by {owner or 'another'}. "
                f"Wait for it and run again, or choose another {key}."
            )
        time.sleep(0.05)
        lock = take_lock(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        drop_lock(lock)
        with suppress(OSError):  # something was written
            for folder in made:
                folder.rmdir()


def sole_outputs(*names: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Keep others from writing what these arguments of a function name, while it runs.

    None among them is no output. Raises what `sole_writer` does, before the function begins.
    """

    def mark(function: Callable[_P, _T]) -> Callable[_P, _T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def alone(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            given = signature.bind(*args, **kwargs).arguments
            with ExitStack() as stack:
                for name in names:
                    if given.get(name) is not None:
                        option = f"--{name.replace('_', '-')}"
                        stack.enter_context(sole_writer(given[name], option))
                return function(*args, **kwargs)

        return alone

    return mark


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header, whole or not at all; None becomes an empty cell."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Mapping[str, Any] | Sequence[Any] | str) -> str:
    """Return 16 hexadecimal digits of a JSON-able value's SHA-256; key order is irrelevant."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
