"""What prompts gave and cost: scores, agreement, tokens and money of several prediction tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abhinaya.data.labels import ABSTAIN
from abhinaya.data.predictions import PredictionTable, align_tables
from abhinaya.errors import BadValueError, MissingFileError
from abhinaya.evaluation.comparison import compare_tables
from abhinaya.evaluation.scoring import TableScore, Truth, score_table

__all__ = ["PromptScore", "compare_prompts", "find_tables", "mean_agreement"]


@dataclass(frozen=True)
class PromptScore:
    """One table among others.

    Args:
        score: macro-F1 with its 95 % interval, and the rest.
        n_abstained: rows of the table without a label, those without a true label included.
        agreement: mean over the other tables of `mean_agreement`, in [0, 1]; `None` without any.
        prompt_tokens_per_1000: tokens that went in per 1,000 clips; `None` where the table does not
            say.
        answer_tokens_per_1000: tokens that came out per 1,000 clips; `None` likewise.
        cost_per_1000: price of both per 1,000 clips; `None` where tokens or prices are unknown.
        currency: of the cost, `None` if there is none.
        p: of McNemar's test against the best table; `None` for the best itself.
        p_holm: the same after Holm's correction over all of them.
    """

    score: TableScore
    n_abstained: int
    agreement: float | None
    prompt_tokens_per_1000: float | None
    answer_tokens_per_1000: float | None
    cost_per_1000: float | None
    currency: str | None
    p: float | None
    p_holm: float | None

    @property
    def name(self) -> str:
        """The table's name."""
        return self.score.name


def find_tables(sources: Sequence[str]) -> list[str]:
    """Return tables as given, and in place of a folder all Parquet tables in it, by name.

    Args:
        sources: folders of `abhinaya prompts run`, or tables, or NAME=TABLE.

    Raises:
        MissingFileError: if a folder has none.
    """
    found: list[str] = []
    for source in sources:
        if not Path(source).is_dir():
            found.append(source)
            continue
        tables = sorted(str(path) for path in Path(source).glob("*.parquet"))
        if not tables:
            raise MissingFileError(
                f"There are no tables in {source!r}. Make some with: abhinaya prompts run."
            )
        found += tables
    return found


def compare_prompts(
    tables: Sequence[PredictionTable],
    truth: Truth,
    *,
    rows: str = "same",
    n_resamples: int = 10_000,
    seed: int = 0,
) -> list[PromptScore]:
    """Return scores of all tables, the best macro-F1 first; of equal ones the first given.

    Args:
        tables: at least one, of one emotion set, under different names.
        truth: true labels. Rows without a true label inside the set are dropped.
        rows: `same` demands that all cover the same utterances; `intersection` keeps those in all.
        n_resamples: bootstrap resamples behind each interval.
        seed: of the bootstrap.

    Raises:
        BadValueError: if tables and truth do not fit together.
    """
    settings: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
    aligned = align_tables(tables, rows=rows)
    # One resample shows the order; the intervals come with the comparison.
    plain = [score_table(table, truth, n_resamples=1) for table in aligned]
    order = sorted(range(len(tables)), key=lambda idx: -plain[idx].scores.macro_f1)
    ranked = [aligned[idx] for idx in order]
    if len(ranked) == 1:
        scores = [score_table(ranked[0], truth, **settings)]
        p_values: list[tuple[float | None, float | None]] = [(None, None)]
    else:
        report = compare_tables(ranked, truth, **settings)
        scores = list(report.scores)
        tests = [comparison.accuracy for comparison in report.comparisons]
        p_values = [(None, None), *((test.p, test.p_holm) for test in tests)]
    found = []
    for place, (idx, score, (p, p_holm)) in enumerate(zip(order, scores, p_values, strict=True)):
        others = [other for other in range(len(ranked)) if other != place]
        found.append(
            PromptScore(
                score=score,
                n_abstained=int((ranked[place].labels == ABSTAIN).sum()),
                agreement=mean_agreement(ranked[place], [ranked[other] for other in others]),
                **_spent(tables[idx]),
                p=p,
                p_holm=p_holm,
            )
        )
    return found


def mean_agreement(table: PredictionTable, others: Sequence[PredictionTable]) -> float | None:
    """Tell how often a table says the same as another, in [0, 1], on average over the others.

    Of a pair counts the share of the same label among the rows to which both gave one. Null if
    there is no such row with any of them.

    Args:
        table: the one.
        others: tables of the same rows in the same order.
    """
    shares = []
    for other in others:
        both = (table.labels != ABSTAIN) & (other.labels != ABSTAIN)
        if both.any():
            shares.append(float(np.mean(table.labels[both] == other.labels[both])))
    return sum(shares) / len(shares) if shares else None


def _spent(table: PredictionTable) -> dict[str, Any]:
    """Return tokens and cost per 1,000 rows of the whole table, out of its metadata."""
    per_thousand = 1000 / len(table)
    n_in = _number(table, "n_prompt_tokens")
    n_out = _number(table, "n_answer_tokens")
    price = table.meta.get("price")
    cost = currency = None
    if price is not None:
        if not isinstance(price, Mapping) or not {"input", "output"} <= price.keys():
            raise BadValueError(
                f"Table {table.name!r} has the price {price!r} in its metadata, expected input and "
                "output per million tokens. Predict again with such a price in the config."
            )
        currency = price.get("currency")
        if n_in is not None and n_out is not None:
            cost = (n_in * price["input"] + n_out * price["output"]) / 1e6 * per_thousand
    return {
        "prompt_tokens_per_1000": None if n_in is None else n_in * per_thousand,
        "answer_tokens_per_1000": None if n_out is None else n_out * per_thousand,
        "cost_per_1000": cost,
        "currency": currency,
    }


def _number(table: PredictionTable, key: str) -> float | None:
    value = table.meta.get(key)
    return float(value) if isinstance(value, int | float) else None
