"""The common part of all members that ask a model as it is and read its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abhinaya.config import MemberConfig
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.problems import Problem
from abhinaya.errors import BadValueError
from abhinaya.files import sole_writer
from abhinaya.inference.loaded import keep_loaded
from abhinaya.loading.clips import Clip
from abhinaya.member import PredictRequest

if TYPE_CHECKING:
    from abhinaya.inference.sharding import TablePlan

__all__ = ["Outcome", "ZeroShotMember", "predict_outcomes"]


class ZeroShotMember(ABC):
    """A member with nothing to train: it predicts labels from its config.

    Attributes:
        name: the member's name in the registry.
        config_class: the member's config.
    """

    name: str
    config_class: type[MemberConfig]

    # A member receives its own config class, as in `ClassifierMember`.
    @abstractmethod
    def ask(self, config: Any, request: PredictRequest) -> PredictionTable:
        """Ask about every row of a selection, write the table and return it."""

    def train(self, config: MemberConfig, manifest: Manifest) -> Path:
        """Refuse: there is nothing to train.

        Raises:
            BadValueError: always.
        """
        del manifest
        raise BadValueError(
            f"The member {config.member!r} has nothing to train. Predict with its config: "
            "abhinaya predict CONFIG --manifest M --select S --out TABLE."
        )

    def predict(self, source: Path | MemberConfig, request: PredictRequest) -> PredictionTable:
        """Ask about every row of a selection, once it is clear that a table can come of it.

        Raises:
            BadValueError: if `source` is no config of this member, embeddings are asked for, a file
                with the ending of `request.out` cannot hold the table, or another process writes
                the same table now.
        """
        from abhinaya.inference.sharding import check_ending

        if not isinstance(source, self.config_class):
            raise BadValueError(
                f"{self.name} predicts from its config, not from {str(source)!r}. Name the YAML "
                "file."
            )
        if request.with_embedding:
            raise BadValueError(
                f"{self.name} gives labels without embeddings. Leave out --with embedding."
            )
        check_ending(request)
        with sole_writer(request.out, "--out"):
            return self.ask(source, request)

    def keep_loaded(self) -> AbstractContextManager[None]:
        """Return a block within which a model of this process stays loaded between predictions.

        It is for experiments that ask one model many times; see `loaded.keep_loaded`.
        """
        return keep_loaded()


@dataclass(frozen=True)
class Outcome:
    """What one or several answers to a question come to.

    Args:
        label: class index, or `ABSTAIN`.
        reason: why it abstains; `None` where it does not.
        probs: class probabilities, K numbers; `None` where there are none.
        raw: the answer; of several a JSON list. None where there is none.
    """

    label: int
    reason: str | None = None
    probs: tuple[float, ...] | None = None
    raw: str | None = None


def predict_outcomes(
    clips: Sequence[Clip],
    answer: Callable[[Sequence[Sequence[Clip]]], Iterator[Sequence[Outcome]]],
    problems: Sequence[Problem],
    plan: TablePlan,
) -> PredictionTable:
    """Answer shard by shard, put the outcomes together, write the table and return it.

    Args:
        clips: what is asked about, in any order.
        answer: yields the outcomes of each shard that it is given, in the order of its clips.
        problems: rows that are not asked about, and why; they abstain.
        plan: what the table will be.
    """
    from abhinaya.inference.sharding import cut, predict_in_shards

    nothing = (float("nan"),) * len(plan.emotions)

    def compute(chunks: Sequence[Sequence[Clip]]) -> Iterator[PredictionTable]:
        for chunk, outcomes in zip(chunks, answer(chunks), strict=True):
            has_probs = any(outcome.probs is not None for outcome in outcomes)
            yield PredictionTable(
                name=plan.name,
                emotions=plan.emotions,
                utterances=tuple(clip.utterance for clip in chunk),
                labels=np.array([outcome.label for outcome in outcomes], dtype=np.int64),
                reasons=tuple(outcome.reason for outcome in outcomes),
                probs=np.array([outcome.probs or nothing for outcome in outcomes], dtype=np.float32)
                if has_probs
                else None,
                raw=tuple(outcome.raw for outcome in outcomes)
                if any(outcome.raw is not None for outcome in outcomes)
                else None,
            )

    # No loss has absorbed a class prior where nothing was trained, unless the plan knows of one.
    plan = plan.with_meta(absorbed_prior=plan.meta.get("absorbed_prior"))
    return predict_in_shards(cut(clips), compute, problems, plan)
