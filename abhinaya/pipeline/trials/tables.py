"""What tables of recipes share: their columns, and the words that say how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping

from abhinaya.evaluation.seeds import SeedDifference, SeedMetric, SeedScore
from abhinaya.pipeline.report import Cell, interval_text
from abhinaya.pipeline.trials.variants import ScoredRows

__all__ = [
    "DIFFERENCE_COLUMNS",
    "SCORE_COLUMNS",
    "TITLES",
    "difference_cells",
    "explain",
    "score_cells",
]

TITLES: dict[SeedMetric, str] = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
"""How a table calls each metric."""

SCORE_COLUMNS = ["mean", "sd", "95 % interval"]
DIFFERENCE_COLUMNS = ["95 % interval of that", "p seeds", "p rows", "p (Holm)"]
"""After a column with the difference itself."""

_FEW = 5


def score_cells(score: SeedScore) -> list[Cell]:
    """Return the cells of `SCORE_COLUMNS`."""
    return [score.mean, score.sd, interval_text(score.interval)]


def difference_cells(
    difference: Mapping[SeedMetric, SeedDifference] | None, metric: SeedMetric
) -> list[Cell]:
    """Return the difference and the cells of `DIFFERENCE_COLUMNS`, empty ones without one."""
    if difference is None:
        return [None] * (1 + len(DIFFERENCE_COLUMNS))
    found = difference[metric]
    low, high = found.interval
    return [
        f"{found.value:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        found.p_seeds,
        found.p_utterances,
        found.p_holm,
    ]


def explain(n_seeds: int, n_comparisons: int, rows: ScoredRows) -> str:
    """Say what the numbers of such tables mean, and what so few seeds cannot say."""
    said = (
        f"Intervals draw seeds and {rows.unit} with replacement. p seeds is that of a paired t "
        f"test over seeds, p rows that of a randomisation test over {rows.unit}; p (Holm) is the "
        f"larger one, corrected for {n_comparisons} comparisons: a difference counts where it "
        f"holds on other seeds and on other {rows.unit}."
    )
    if n_seeds == 1:
        return f"{said} There is one seed, so nothing is known about others: p is over rows alone."
    if n_seeds < _FEW:
        said += (
            f" {n_seeds} seeds say little about others: their intervals are too narrow, and the t "
            f"test has {n_seeds - 1} degree{'s' if n_seeds > 2 else ''} of freedom."
        )
    return said
