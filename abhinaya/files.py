"""Files that are either whole or not there.

Every output is written to a temporary name in the same folder and renamed, so that a killed run
never leaves half a file under the final name.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abhinaya.errors import BadValueError, kind_of

__all__ = [
    "atomic_folder",
    "atomic_path",
    "digest_of",
    "parse_json",
    "read_json",
    "read_text",
    "sole_writer",
    "take_lock",
    "write_csv",
    "write_json",
    "write_text",
]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two processes that write the same file apart; the last rename wins.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        # A folder cannot be replaced in one step; the old one is moved aside, never deleted first.
        old = path.with_name(f".{path.name}.old")
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def read_json(path: Path) -> dict[str, Any]:
    """Read the dictionary in a JSON file.

    Raises:
        BadValueError: if it is no JSON in UTF-8, or another value.
    """
    value = parse_json(read_text(path), f"The file {str(path)!r}")
    if not isinstance(value, dict):
        raise BadValueError(
            f"The file {str(path)!r} holds {kind_of(value)}, expected keys with values. Copy it "
            "again, or make it again."
        )
    return value


def take_lock(path: Path, *, shared: bool = False) -> int | None:
    """Take a lock that ends with the process, however it ends, or with `os.close` of the result.

    Args:
        path: the file that stands for what is locked; it holds the owner's process id and machine.
        shared: let others have it too, if theirs are shared.

    Returns:
        The lock's file descriptor; None if another one has it. Where the file system knows no
        locks, it is as if nobody had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # somebody else's file
        descriptor, shared = os.open(path, os.O_RDONLY), True
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        return descriptor
    if not shared:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


@contextmanager
def sole_writer(path: Path, key: str) -> Iterator[None]:
    """Keep others from writing the same file or folder during a block.

    Args:
        path: what is written.
        key: the option or key that names it, for the message.

    Raises:
        BadValueError: if another process does so now; it is named.
    """
    file = path.with_name(f".{path.name}.lock")
    lock = take_lock(file)
    if lock is None:
        raise BadValueError(
            f"{str(path)!r} is being written by {file.read_text(encoding='utf-8') or 'another'}. "
            f"Wait for it and run again, or choose another {key}."
        )
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(lock)


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


def digest_of(value: Mapping[str, Any] | Sequence[Any] | str) -> str:
    """Return 16 hexadecimal digits of a JSON-able value's SHA-256; key order is irrelevant."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
