"""A table out of shards: sharded over processes, resumable, in the manifest's order in the end."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from abhinaya import __version__
from abhinaya.config import MemberConfig, config_digest
from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.data.problems import Problem, problems_beside, write_problems
from abhinaya.errors import AudioError, BadValueError
from abhinaya.files import digest_of
from abhinaya.loading.clips import Clip
from abhinaya.loading.dataset import SegmentLoader, usable_workers
from abhinaya.member import PredictRequest
from abhinaya.processes import is_main_process, join_launch, meet
from abhinaya.progress import progress

__all__ = [
    "CHUNK_SIZE",
    "Batches",
    "TablePlan",
    "check_ending",
    "cut",
    "find_table",
    "plan_table",
    "predict_in_shards",
    "read_batches",
    "shards_of",
]

_logger = logging.getLogger(__name__)

CHUNK_SIZE = 64
"""Clips per shard. It is fixed, so that shards fit together whatever the number of processes."""


@dataclass(frozen=True)
class TablePlan:
    """What a table will be, whoever computes it.

    Args:
        name: the run's name.
        emotions: the classes.
        utterances: every row, in the manifest's order.
        request: where it goes.
        meta: of the table; its `digest` names the shards.
        trained_on: see `PredictionTable`.
    """

    name: str
    emotions: EmotionSet
    utterances: tuple[str, ...]
    request: PredictRequest
    meta: Mapping[str, Any]
    trained_on: NDArray[np.bool_] | None = None

    def with_meta(self, **facts: Any) -> TablePlan:
        """Return the plan with more to tell in the table's metadata."""
        return replace(self, meta={**self.meta, **facts})


def check_ending(request: PredictRequest) -> None:
    """Say now what would otherwise be said after hours of work.

    Raises:
        BadValueError: if a file with that ending cannot hold the table.
    """
    if request.out.suffix not in (".parquet", ".csv"):
        raise BadValueError(f"The table {str(request.out)!r} must end in .parquet or .csv.")
    if request.with_embedding and request.out.suffix == ".csv":
        raise BadValueError(
            f"A CSV holds no embeddings, but {str(request.out)!r} should. Let it end in .parquet, "
            "or do not ask for embeddings."
        )


def plan_table(
    config: MemberConfig,
    request: PredictRequest,
    *,
    without: Sequence[str],
    **decisive: Any,
) -> TablePlan:
    """Return the plan of a table, with a digest of all that decides it.

    So no other table or shard is taken for it.

    Args:
        config: of what labels.
        request: what is labelled.
        without: dotted keys of the config that change a table by no more than rounding.
        decisive: what counts beside config and manifest, such as the weights; JSON-able.
    """
    utterances = tuple(request.manifest.select(request.selection)["utterance"])
    decisive |= {
        "config": config_digest(config, without=without),
        "manifest": request.manifest.digest,
        "utterances": utterances,
    }
    if config.data.transcripts is not None:
        # Beside the texts themselves: reasons of abstentions name it.
        decisive["transcripts"] = config.data.transcripts.predict
    meta = {
        "member": config.member,
        "selection": list(request.selection),
        "seed": config.seed,
        "digest": digest_of(decisive),
        "version": __version__,
    }
    return TablePlan(config.name, request.manifest.emotions, utterances, request, meta)


def find_table(plan: TablePlan) -> PredictionTable | None:
    """Read the very table that is planned, if it is there already."""
    out = plan.request.out
    if not out.is_file() or out.suffix != ".parquet":
        return None
    table = read_table(out)
    if table.meta.get("digest") != plan.meta["digest"]:
        return None
    _logger.info("%s is there already", out)
    if is_main_process():
        _drop_shards(plan)  # a kill may have come right behind the table
    return table


def shards_of(plan: TablePlan) -> Path:
    """Return the folder of what there is of a table until it is whole."""
    out = plan.request.out
    return out.with_name(f".{out.name}.parts") / str(plan.meta["digest"])


def _drop_shards(plan: TablePlan) -> None:
    # There are no shards where the manifest names no audio at all.
    shutil.rmtree(shards_of(plan).parent, ignore_errors=True)


def cut(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Cut clips into shards, the longest first."""
    ordered = sorted(clips, key=lambda clip: (-clip.size, clip.utterance))
    return [ordered[at : at + CHUNK_SIZE] for at in range(0, len(ordered), CHUNK_SIZE)]


Batches = Iterator[tuple[list[int], list[list[dict[str, Any]]], dict[int, str]]]
"""Of one shard: indices of the clips that could be read, their segments, and why the other clips of
the batch could not, by index."""


def read_batches(
    chunks: Sequence[Sequence[Clip]], load: SegmentLoader, *, batch_size: int, num_workers: int
) -> Iterator[Batches]:
    """Yield the batches of each shard as a model takes them, read by processes beside this one.

    The processes read ahead, from one shard into the next; no batch has clips of two.

    Args:
        chunks: the shards; the batches of one must be used up before the next one is asked for.
        load: gives the segments of a clip.
        batch_size: clips per batch.
        num_workers: processes.
    """
    batches = [
        [
            [(number, idx) for idx in range(start, min(start + batch_size, len(chunk)))]
            for start in range(0, len(chunk), batch_size)
        ]
        for number, chunk in enumerate(chunks)
    ]
    loader = iter(
        DataLoader(
            _Readable(chunks, load),
            batch_sampler=[batch for of_chunk in batches for batch in of_chunk],
            num_workers=usable_workers(num_workers),
            collate_fn=list,
        )
    )
    for of_chunk in batches:
        yield map(_split_unread, itertools.islice(loader, len(of_chunk)))


def _split_unread(
    batch: list[tuple[int, list[dict[str, Any]] | str]],
) -> tuple[list[int], list[list[dict[str, Any]]], dict[int, str]]:
    read = [(idx, segments) for idx, segments in batch if not isinstance(segments, str)]
    reasons = {idx: reason for idx, reason in batch if isinstance(reason, str)}
    return [idx for idx, _ in read], [segments for _, segments in read], reasons


class _Readable(Dataset[tuple[int, list[dict[str, Any]] | str]]):
    """Clips by shard and place in it; one that cannot be read yields its reason, not segments."""

    def __init__(self, chunks: Sequence[Sequence[Clip]], load: SegmentLoader) -> None:
        self.chunks = chunks
        self.load = load

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, list[dict[str, Any]] | str]:
        number, idx = key
        try:
            return idx, self.load(self.chunks[number][idx], None)
        except AudioError as err:
            return idx, str(err)


def predict_in_shards(
    chunks: Sequence[Sequence[Clip]],
    compute: Callable[[Sequence[Sequence[Clip]]], Iterator[PredictionTable]],
    problems: Sequence[Problem],
    plan: TablePlan,
) -> PredictionTable:
    """Compute the shards that are missing, put them together, write the table and return it.

    Each process of a launch takes every n-th shard, so that all get equal shares of audio. A
    finished shard is kept beside the table until the table is whole: a killed prediction goes on
    where it was.

    Args:
        chunks: from `cut`.
        compute: yields the table of each shard that it is given; rows may be in any order.
        problems: rows that are in no shard, and why; they abstain.
        plan: what the table will be.
    """
    state = join_launch()
    request = plan.request
    shards = shards_of(plan)
    mine = range(state.process_index, len(chunks), state.num_processes)
    n_mine = sum(len(chunks[number]) for number in mine)
    files = {number: shards / f"part-{number:05d}.parquet" for number in range(len(chunks))}
    missing = [number for number in mine if not files[number].is_file()]
    tables = compute([chunks[number] for number in missing])
    with progress(f"predicting {plan.name}", n_mine, shown=state.is_main_process) as advance:
        for number in mine:
            if number in missing:
                write_table(next(tables), files[number])
            advance(len(chunks[number]))
    meet()
    table = _merge([read_table(file) for file in files.values()], problems, plan)
    meet()
    if state.is_main_process:
        unusable = [
            Problem(utterance, reason)
            for utterance, reason in zip(table.utterances, table.reasons, strict=True)
            if reason is not None
        ]
        write_problems(problems_beside(request.out), unusable)
        write_table(table, request.out)
        _drop_shards(plan)
    meet()
    return table


def _merge(
    shards: Sequence[PredictionTable], problems: Sequence[Problem], plan: TablePlan
) -> PredictionTable:
    """Merge all shards in the manifest's order; rows without a clip abstain with a reason."""
    place = {utterance: idx for idx, utterance in enumerate(plan.utterances)}
    n_utts = len(plan.utterances)
    labels = np.full(n_utts, ABSTAIN, dtype=np.int64)
    reasons: list[str | None] = [None] * n_utts
    raw: list[str | None] = [None] * n_utts
    numbers: dict[str, Any] = {"probs": None, "embeddings": None, "attributes": None}
    for problem in problems:
        reasons[place[problem.utterance]] = problem.reason
    for shard in shards:
        idx = [place[utterance] for utterance in shard.utterances]
        labels[idx] = shard.labels
        for key in numbers:
            values = getattr(shard, key)
            if values is None or (key == "embeddings" and not plan.request.with_embedding):
                continue
            if numbers[key] is None:
                numbers[key] = np.full((n_utts, values.shape[1]), np.nan, dtype=np.float32)
            numbers[key][idx] = values
        for row, reason, answer in zip(
            idx, shard.reasons, shard.raw or [None] * len(shard), strict=True
        ):
            reasons[row], raw[row] = reason, answer
    return PredictionTable(
        name=plan.name,
        emotions=plan.emotions,
        utterances=plan.utterances,
        labels=labels,
        reasons=tuple(reasons),
        raw=tuple(raw) if any(shard.raw is not None for shard in shards) else None,
        trained_on=plan.trained_on,
        meta=dict(plan.meta),
        **numbers,
    )
