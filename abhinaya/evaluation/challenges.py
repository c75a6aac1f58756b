"""Challenges as files: who is asked for what, how it is written, scored, and how often one may try.

The shipped ones are in `configs/challenges/`; a team gives the path of its own instead of a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from abhinaya.config import Config, check_config, load_yaml
from abhinaya.data.label_csv import FILE_COLUMN, LABEL_COLUMN
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, UnknownNameError
from abhinaya.resources import configs_dir

__all__ = ["CHALLENGES", "Challenge", "Layout", "Quota", "count_left", "find_challenge"]


class Layout(Config):
    """How a submission of classes is written."""

    file: str | None = FILE_COLUMN
    """Column of the names; None where labels stand alone, in the order of the names."""
    label: str = LABEL_COLUMN
    """Column of the labels."""
    header: bool = True
    """Whether the first line names the columns."""
    ending: Literal[".csv", ".tsv"] = ".csv"
    """Of the file; .tsv has tabs between its cells."""


class Quota(Config):
    """How many submissions a team may hand in, for each task."""

    count: int = Field(ge=1)
    """So many."""
    per: Literal["day", "week", "challenge"]
    """Within 24 hours, within seven days, or in all."""


class _Classes(Config):
    codes: tuple[str, ...] = Field(min_length=2)
    names: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


class _ChallengeFile(Config):
    title: str = ""
    url: str = ""
    metric: Literal["macro-f1", "weighted-f1", "uar", "ccc"] = "macro-f1"
    n_rows: int | None = Field(default=None, ge=1)
    names: str | None = None
    classes: _Classes | None = None
    layout: Layout = Layout()
    quota: Quota | None = None
    opens: date | None = None
    closes: date | None = None


@dataclass(frozen=True)
class Challenge:
    """What one challenge accepts.

    Args:
        name: as given to `--challenge`; of a file, its stem.
        n_rows: number of test utterances; None where it is not known.
        emotions: classes that may be predicted; None leaves it to the table.
        names: the expected file names in order; None where their numbering is not public.
        title: its full name.
        url: its home.
        metric: what it is decided by.
        layout: how a submission of classes is written.
        quota: how often one may submit; None where that is not known.
        opens: first day of submissions.
        closes: last day of submissions.
    """

    name: str
    n_rows: int | None = None
    emotions: EmotionSet | None = MSP_PODCAST
    names: tuple[str, ...] | None = None
    title: str = ""
    url: str = ""
    metric: str = "macro-f1"
    layout: Layout = field(default_factory=Layout)
    quota: Quota | None = None
    opens: date | None = None
    closes: date | None = None


def _read_challenge(path: Path) -> Challenge:
    found = check_config(load_yaml(path), _ChallengeFile, str(path))
    names = None
    if found.names is not None:
        if found.n_rows is None:
            raise ProblemsError(str(path), ["names needs n_rows, how many there are"])
        try:
            names = tuple(found.names.format(n) for n in range(1, found.n_rows + 1))
        except (IndexError, KeyError, ValueError):
            names = ()
        if len(set(names)) != found.n_rows:
            wrong = f"names is {found.names!r}, expected a pattern such as 'clip_{{:04d}}.wav'"
            raise ProblemsError(str(path), [wrong])
    emotions = None
    if found.classes is not None:
        try:
            emotions = EmotionSet.from_codes(
                found.classes.codes, found.classes.names, found.classes.outside
            )
        except BadValueError as err:
            raise ProblemsError(str(path), [str(err).rstrip(".")]) from err
    values = {name: getattr(found, name) for name in _SAME}
    return Challenge(path.stem, emotions=emotions, names=names, **values)


_SAME = ("n_rows", "title", "url", "metric", "layout", "quota", "opens", "closes")

CHALLENGES: Mapping[str, Challenge] = MappingProxyType(
    {
        path.stem: _read_challenge(path)
        for path in sorted((configs_dir() / "challenges").glob("*.yaml"))
    }
)
"""The shipped challenges by name."""


def find_challenge(name: str) -> Challenge:
    """Find the challenge of that name, or read it from a YAML file.

    Raises:
        UnknownNameError: if there is none.
        MissingFileError: if the name is a path and no file is there.
        ProblemsError: with all that is wrong in the file.
    """
    if name in CHALLENGES:
        return CHALLENGES[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise MissingFileError(
                f"There is no challenge {name!r}. Give a YAML file, or one of the shipped ones: "
                f"{', '.join(CHALLENGES)}."
            )
        return _read_challenge(path)
    raise UnknownNameError("challenge", name, CHALLENGES)


def count_left(
    challenge: Challenge,
    entries: Sequence[Mapping[str, Any]],
    *,
    task: str = "classes",
    now: datetime | None = None,
) -> int | None:
    """Count how many submissions the quota leaves; None where no quota is known.

    Every entry of the ledger counts as handed in; what lies in other folders is not seen.

    Args:
        challenge: its rules.
        entries: of the ledger, see `read_ledger`.
        task: only its submissions count.
        now: the time; by default this moment.
    """
    quota = challenge.quota
    if quota is None:
        return None
    window = {"day": timedelta(days=1), "week": timedelta(days=7)}.get(quota.per)
    since = "" if window is None else ((now or datetime.now(UTC)) - window).isoformat()
    counted = [
        entry
        for entry in entries
        if entry.get("challenge") == challenge.name
        and entry.get("task", "classes") == task
        and str(entry.get("date", "")) > since
    ]
    return max(quota.count - len(counted), 0)
