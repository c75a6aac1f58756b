"""Ablation of a vote: every combination of tables scored, what each brings, how sure that is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya import __version__
from abhinaya.data.labels import EmotionSet
from abhinaya.data.texts import Texts
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.evaluation.bootstrap import bootstrap_interval
from abhinaya.evaluation.caveats import require_unseen
from abhinaya.evaluation.scoring import (
    Truth,
    absent_classes,
    labelled_rows,
)
from abhinaya.files import atomic_path
from ensembling.ablation.combinations import check_combinations
from ensembling.ablation.diversity import Diversity, diversity, oracle_labels
from ensembling.ablation.gray_code import MAX_MEMBERS
from ensembling.ablation.selection_bias import Optimism, selection_optimism
from ensembling.ablation.shapley import sampled_shapley_values, shapley_values
from ensembling.ablation.subset_search import (
    Ballots,
    Subsets,
    beam_search,
    every_subset,
    members_of,
)
from ensembling.aligned import align_predictions

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable

__all__ = ["BEAM_WIDTH", "Ablation", "MemberValue", "SubsetScore", "ablate_tables", "write_subsets"]

BEAM_WIDTH = 200
"""Subsets of each size that a beam search keeps, where nothing else is said."""

N_CANDIDATES = 2_000
"""Best subsets that the optimism of choosing is taken over."""

# Candidates times columns: bounds the memory to some 600 MB. Of a million utterances the best
# hundred are taken, where luck is small.
_CANDIDATE_CELLS = 100_000_000


@dataclass(frozen=True)
class SubsetScore:
    """The vote of some tables, scored.

    Args:
        members: names of the tables.
        macro_f1: over the whole emotion set, with zero for undefined.
        accuracy: share of correct utterances.
        interval: 95 % bootstrap interval of macro-F1 for these tables, not for choosing them.
        name: of the combination, where it has one.
    """

    members: tuple[str, ...]
    macro_f1: float
    accuracy: float
    interval: tuple[float, float]
    name: str | None = None


@dataclass(frozen=True)
class MemberValue:
    """What one table brings.

    Args:
        name: the table's.
        alone: its own macro-F1.
        without: macro-F1 of the vote of all others; None for the only table.
        change: `without` less macro-F1 of all: negative where the table is needed.
        shapley: mean gain of macro-F1 from adding it, over all orders in which tables come in.
    """

    name: str
    alone: float
    without: float | None
    change: float | None
    shapley: float


@dataclass(frozen=True, eq=False)
class Ablation:
    """All that an ablation finds out.

    Args:
        names: of the tables, in the order of the bits of `subsets.masks`.
        emotions: the classes and their order.
        tiebreakers: names of tables that settle ties before the others do.
        n_utts: utterances with a true label inside the set; only these are scored.
        n_dropped: utterances of the tables without one.
        n_not_in_tables: utterances with a true label inside the set that the tables do not cover.
        absent: codes of the classes that no scored utterance truly has.
        n_trained_on: of the scored ones those that a table was trained on.
        search: `exhaustive` if `subsets` has all of at most `max_size`, else `beam`.
        beam_width: how many subsets of each size the beam search kept; None without one.
        max_size: size of the largest subsets.
        subsets: what was scored, the best first.
        best: the best subset of each size.
        everybody: all tables together.
        members: in the order of the tables.
        diversity: of all pairs, in the order of the tables.
        oracle: macro-F1 and accuracy of a rule that follows a right table wherever there is one,
            and the vote of all elsewhere.
        combinations: the named ones.
        optimism: of picking `subsets`' first; None where there was nothing to choose.
    """

    names: tuple[str, ...]
    emotions: EmotionSet
    tiebreakers: tuple[str, ...]
    n_utts: int
    n_dropped: int
    n_not_in_tables: int
    absent: tuple[str, ...]
    n_trained_on: int
    search: Literal["exhaustive", "beam"]
    beam_width: int | None
    max_size: int
    subsets: Subsets
    best: tuple[SubsetScore, ...]
    everybody: SubsetScore
    members: tuple[MemberValue, ...]
    diversity: Diversity
    oracle: tuple[float, float]
    combinations: tuple[SubsetScore, ...]
    optimism: Optimism | None


def ablate_tables(
    tables: Sequence[PredictionTable],
    truth: Truth,
    *,
    tiebreakers: Sequence[str] = (),
    rows: str = "same",
    max_size: int | None = None,
    beam_width: int | None = None,
    combinations: Mapping[str, Sequence[str]] | None = None,
    by_speaker: bool = False,
    include_training_rows: bool = False,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> Ablation:
    """Score the vote of every combination of tables.

    Each combination votes by the rule of `abhinaya vote`: the most voted class, a tie settled by
    the first of its own tables, in the order of the tiebreakers and then of the tables as given,
    whose label is among the tied classes. An utterance on which all of them abstain counts as
    wrong. Beyond 20 tables not every combination can be tried; a beam search takes over.

    Args:
        tables: M tables of one emotion set, under different names; labels are all they need.
        truth: true labels, and speakers for `by_speaker`; it may cover more utterances.
        tiebreakers: names of tables, first one first.
        rows: `same` demands that all tables cover the same utterances; `intersection` keeps those
            that are in all.
        max_size: largest combinations to consider; by default all.
        beam_width: search by a beam that keeps so many combinations of each size, also where all
            could be tried.
        combinations: names of tables by name of the combination.
        by_speaker: draw speakers instead of utterances for intervals and optimism; an utterance of
            an unknown speaker then stands for itself.
        include_training_rows: also score rows that tables were trained on.
        n_resamples: bootstrap resamples behind each interval, and halves behind the optimism.
        seed: of all draws.

    Raises:
        BadValueError: if there are no tables, their utterances differ or are not in the truth, none
            has a true label, a table was trained on what is scored, a tiebreaker is given twice, a
            number is out of range, or speakers are asked for but unknown.
        ClassOrderError: if tables or truth differ in class order.
        ProblemsError: if combinations name tables that are not there.
        UnknownNameError: if a tiebreaker is not the name of a table.
    """
    aligned = align_predictions(tables, rows=rows)
    names, emotions, n_members = aligned.names, aligned.emotions, len(aligned.names)
    truth.emotions.require_same_order(emotions, what=f"Table {names[0]!r}", where=truth.where)
    for tiebreaker in tiebreakers:
        if tiebreaker not in names:
            raise UnknownNameError("tiebreaker", tiebreaker, names)
    if max_size is not None and not 1 <= max_size <= n_members:
        raise BadValueError(
            f"The largest combinations shall have {max_size} tables, expected 1 to {n_members}, "
            "the number of tables. Leave it out to consider all."
        )
    check_combinations(combinations or {}, names)

    scored = labelled_rows(aligned.utterances, truth, by_speaker=by_speaker)
    if not include_training_rows:
        require_unseen(tables, Texts(aligned.utterances).take(scored.indices))
    ballots = Ballots(
        aligned.labels[:, scored.indices],
        scored.labels,
        len(emotions),
        [names.index(tiebreaker) for tiebreaker in tiebreakers],
    )
    work = _Work(names, ballots.merge_equal(), scored.labels, scored.groups, n_resamples, seed)

    largest = max_size or n_members
    if n_members <= MAX_MEMBERS and beam_width is None:
        subsets, every_macro_f1 = every_subset(work.ballots, largest)
        shapley = shapley_values(every_macro_f1)
    else:
        beam_width = BEAM_WIDTH if beam_width is None else beam_width
        subsets = beam_search(work.ballots, largest, beam_width)
        shapley = sampled_shapley_values(
            lambda is_in: work.ballots.score(is_in)[0], n_members, seed=seed
        )
    everyone = np.ones(n_members, dtype=bool)
    everybody = work.describe(everyone)
    return Ablation(
        names=names,
        emotions=emotions,
        tiebreakers=tuple(tiebreakers),
        n_utts=len(scored.labels),
        n_dropped=scored.n_dropped,
        n_not_in_tables=scored.n_not_in_tables,
        absent=absent_classes(scored.labels, emotions),
        n_trained_on=0
        if aligned.trained_on is None
        else int(aligned.trained_on[scored.indices].sum()),
        search="exhaustive" if beam_width is None else "beam",
        beam_width=beam_width,
        max_size=largest,
        subsets=subsets,
        best=tuple(
            work.describe(is_in)
            for is_in in members_of(subsets.masks[subsets.best_of_each_size()], n_members)
        ),
        everybody=everybody,
        members=work.members(shapley, everybody.macro_f1),
        diversity=diversity(work.ballots.votes, work.ballots.truth, work.ballots.how_often),
        oracle=work.oracle(),
        combinations=tuple(
            work.describe(np.isin(names, list(members)), name)
            for name, members in (combinations or {}).items()
        ),
        optimism=work.optimism(subsets),
    )


@dataclass(frozen=True, eq=False)
class _Work:
    """What all parts of an ablation need: names, ballots, truth by utterance, how to resample."""

    names: tuple[str, ...]
    ballots: Ballots
    truth: NDArray[np.int64]
    groups: Sequence[str | None] | None
    n_resamples: int
    seed: int

    def describe(self, is_in: NDArray[np.bool_], name: str | None = None) -> SubsetScore:
        """Score the tables at the True places of `is_in`, shape (M,), with an interval."""
        labels = self.ballots.vote(is_in[np.newaxis])
        macro_f1, accuracy = self.ballots.score_labels(labels)
        interval = bootstrap_interval(
            self.truth,
            labels[0] if self.ballots.which is None else labels[0][self.ballots.which],
            self.ballots.n_classes,
            groups=self.groups,
            n_resamples=self.n_resamples,
            seed=self.seed,
        )
        return SubsetScore(
            members=tuple(self.names[idx] for idx in np.flatnonzero(is_in)),
            macro_f1=float(macro_f1[0]),
            accuracy=float(accuracy[0]),
            interval=interval,
            name=name,
        )

    def members(self, shapley: NDArray[np.float64], of_all: float) -> tuple[MemberValue, ...]:
        n_members = len(self.names)
        only_one = np.eye(n_members, dtype=bool)
        alone = self.ballots.score(only_one)[0]
        if n_members == 1:
            return (MemberValue(self.names[0], float(alone[0]), None, None, float(shapley[0])),)
        without = self.ballots.score(~only_one)[0]
        return tuple(
            MemberValue(
                name,
                alone=float(alone[idx]),
                without=float(without[idx]),
                change=float(without[idx] - of_all),
                shapley=float(shapley[idx]),
            )
            for idx, name in enumerate(self.names)
        )

    def oracle(self) -> tuple[float, float]:
        ballots = self.ballots
        voted = ballots.vote(np.ones((1, len(self.names)), dtype=bool))[0]
        labels = oracle_labels(ballots.votes, ballots.truth, voted)
        macro_f1, accuracy = ballots.score_labels(labels[np.newaxis])
        return float(macro_f1[0]), float(accuracy[0])

    def optimism(self, subsets: Subsets) -> Optimism | None:
        n_candidates = max(2, _CANDIDATE_CELLS // len(self.ballots.truth))
        candidates = subsets.masks[: min(n_candidates, N_CANDIDATES)]
        if len(candidates) < 2:
            return None
        return selection_optimism(
            self.ballots.vote(members_of(candidates, len(self.names))),
            self.ballots.truth,
            self.ballots.n_classes,
            which=self.ballots.which,
            groups=self.groups,
            n_halves=max(2, self.n_resamples),
            seed=self.seed,
        )


def write_subsets(ablation: Ablation, path: Path) -> None:
    """Write all scored subsets as Parquet: bitmask, size, members, macro_f1, accuracy.

    The rows stand from the best to the worst. Bit i of `bitmask` is the table i; `members` are the
    names joined by "+". Names, tiebreakers and the search are in the metadata.

    Raises:
        BadValueError: if the path does not end in .parquet.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        raise BadValueError(f"The table of combinations {str(path)!r} must end in .parquet.")
    subsets = ablation.subsets
    is_in = members_of(subsets.masks, len(ablation.names))
    nothing = pa.scalar(None, type=pa.string())
    parts = [
        pc.if_else(pa.array(is_in[:, idx]), name, nothing)
        for idx, name in enumerate(ablation.names)
    ]
    stored = {
        "kind": "ablation",
        "names": ablation.names,
        "emotions": ablation.emotions.to_json(),
        "tiebreakers": ablation.tiebreakers,
        "search": ablation.search,
        "beam_width": ablation.beam_width,
        "max_size": ablation.max_size,
        "n_utts": ablation.n_utts,
        "version": __version__,
    }
    table = pa.table(
        {
            "bitmask": pa.array(subsets.masks),
            "size": pa.array(subsets.sizes.astype(np.uint8)),
            "members": pc.binary_join_element_wise(*parts, "+", null_handling="skip"),
            "macro_f1": pa.array(subsets.macro_f1),
            "accuracy": pa.array(subsets.accuracy),
        }
    ).replace_schema_metadata({"abhinaya": json.dumps(stored)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
