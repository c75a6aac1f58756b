"""Answers on disk: every answer is written as soon as it is there, and found again by its question.

A folder holds files of JSON lines, one file for each process that ever wrote. Lines are only ever
appended, in one piece, so a killed process loses nothing that it had got, and several processes, on
several machines too, share the folder without locks. Questions are not stored, only their digest:
transcripts are licensed data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from abhinaya.errors import list_some
from abhinaya.files import telling_full_disks
from members.llama_zero_shot.engine import Answer, Question

__all__ = ["AnswerStore", "key_of"]

_logger = logging.getLogger(__name__)

_FORMAT = "abhinaya-answers-1"

_SYNC_S = 1.0


def key_of(question: Question, identity: str, decoding: Mapping[str, Any]) -> str:
    """Return what an answer is kept under: 32 hexadecimal digits.

    Args:
        question: the chat exactly as it is sent, and which of several answers it is.
        identity: of the engine.
        decoding: all that decides how an answer comes about.
    """
    asked = {
        "identity": identity,
        "decoding": dict(decoding),
        "turns": question.messages(),
        "sample": question.sample,
    }
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class AnswerStore:
    """The answers of a folder.

    A failure is kept for the processes of this run only: the next one asks again.

    Args:
        folder: made with the first answer.
        wanted: keys to look for; `None` for all that the folder has.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with AnswerStore(folder) as store:
        ...     store.add("k", Answer("sad", None, 90, 1))
        >>> AnswerStore(folder)["k"].text
        'sad'
    """

    def __init__(self, folder: Path, wanted: Collection[str] | None = None) -> None:
        self.folder = folder
        self._wanted = wanted
        self._answers: dict[str, Answer] = {}
        self._read_to: dict[Path, int] = {}
        self._file: Path | None = None
        self._descriptor: int | None = None
        self._synced = time.monotonic()
        self._read(with_failures=False)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer, in memory and on disk.

        When a process is killed, all that was added is on disk; when a machine loses its power, all
        but the last second.
        """
        self._answers[key] = answer
        line = json.dumps({"format": _FORMAT, "key": key, **asdict(answer)}, ensure_ascii=False)
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        rest = f"{line}\n".encode()
        with telling_full_disks(self.folder):
            while rest:  # one write is one piece, unless the disk is full
                rest = rest[os.write(self._descriptor, rest) :]
            if time.monotonic() - self._synced > _SYNC_S:
                self._sync()

    def refresh(self) -> None:
        """Read what other processes have added since, their failures too."""
        self._read(with_failures=True)

    def close(self) -> None:
        """Make sure that all is on disk."""
        if self._descriptor is not None:
            self._sync()
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._file is None:
            writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
            self._file = self.folder / f"{writer}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(self._file, flags, 0o666)

    def _sync(self) -> None:
        assert self._descriptor is not None
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def _read(self, *, with_failures: bool) -> None:
        for file in sorted(self.folder.glob("*.jsonl")):
            if file != self._file:
                self._read_file(file, with_failures)

    def _read_file(self, file: Path, with_failures: bool) -> None:
        with file.open("rb") as stream:
            stream.seek(self._read_to.get(file, 0))
            content = stream.read()
        # What follows the last line end is still being written, or was when its writer was killed.
        end = content.rfind(b"\n") + 1
        self._read_to[file] = self._read_to.get(file, 0) + end
        bad = []
        for line in content[:end].split(b"\n")[:-1]:
            read = _parse(line)
            if read is None:
                bad.append(line[:60])
            elif self._wanted is not None and read[0] not in self._wanted:
                continue
            elif read[1].failure is None or (with_failures and read[0] not in self._answers):
                self._answers[read[0]] = read[1]
        if bad:
            _logger.warning(
                "%d lines of %s are damaged; what they held is asked again: %s",
                len(bad),
                file,
                list_some(bad),
            )


def _parse(line: bytes) -> tuple[str, Answer] | None:
    """Return key and answer of a line; `None` if it is damaged."""
    try:
        read = json.loads(line)
        if read.pop("format") != _FORMAT:
            return None
        key, probs = read.pop("key"), read.pop("probs")
        return str(key), Answer(probs=_numbers(probs), **read)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
