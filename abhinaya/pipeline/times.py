"""How long the steps of a chain took, in a log beside it, and how long the others will take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import mean

__all__ = ["estimate_left", "note_time", "read_times"]

_NAME = "times.jsonl"


def note_time(out: Path, name: str, seconds: float) -> None:
    """Add a finished step to the log of the chain in `out`; steps may end at the same moment."""
    entry = {
        "step": name,
        "seconds": round(seconds, 1),
        "ended": datetime.now().isoformat(timespec="seconds"),
    }
    with (out / ".steps" / _NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_times(out: Path) -> dict[str, float]:
    """Return the seconds of each step when it was last done; lines of a broken log are left out."""
    times: dict[str, float] = {}
    path = out / ".steps" / _NAME
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            times[str(entry["step"])] = float(entry["seconds"])
        except (ValueError, TypeError, KeyError):  # cut off by a kill
            continue
    return times


def estimate_left(names: Sequence[str], times: dict[str, float]) -> float | None:
    """Return the seconds that steps will take: as before, else as others of their kind.

    None if there is a step of a kind that was never done.
    """
    total = 0.0
    for name in names:
        kind = name.partition(":")[0]
        alike = [took for other, took in times.items() if other.partition(":")[0] == kind]
        if name not in times and not alike:
            return None
        total += times[name] if name in times else mean(alike)
    return total
