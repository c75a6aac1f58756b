"""Predictions of a trained classifier: sharded, resumable, in the manifest's order."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset

import abhinaya
from abhinaya.audio import audio_digest
from abhinaya.clips import Clip, Cropping, collect_clips
from abhinaya.config import apply_overrides, check_config, config_digest
from abhinaya.errors import AudioError, BadValueError
from abhinaya.files import digest_of
from abhinaya.inference.features import FeatureStore, collate_features
from abhinaya.labels import ABSTAIN, EmotionSet
from abhinaya.member import PredictRequest
from abhinaya.nn.checkpoint import WEIGHTS, CheckpointInfo, load_weights, read_info
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.predictions import PredictionTable, read_table, write_table
from abhinaya.problems import Problem, write_problems
from abhinaya.progress import progress
from abhinaya.training.build import ClassifierParts, build_classifier
from abhinaya.training.classifier_config import ClassifierConfig
from abhinaya.training.dataset import PieceLoader, fresh_loader

__all__ = ["predict_classifier"]

_logger = logging.getLogger(__name__)

CHUNK_SIZE = 64
"""Clips per part. It is fixed, so that parts fit together whatever the number of processes."""

_N_READERS = 8

# What changes a table by no more than rounding, or not at all.
_NOT_IN_DIGEST = (
    "run_dir",
    "data",
    "training",
    "cache",
    "inference.batch_size",
    "inference.num_workers",
)


def predict_classifier(
    member: ClassifierParts, run_dir: Path, request: PredictRequest
) -> PredictionTable:
    """Label every row of a selection with `best/` of a run.

    Clips are sorted by duration and cut into parts; each process of a launch takes every n-th part,
    so the processes get equal shares of audio. A finished part is kept beside the table until the
    table is whole: a killed prediction goes on where it was.

    Args:
        member: builds the model.
        run_dir: run directory, or a checkpoint folder itself.
        request: what to predict and where to write it; overrides may change `base`, `inference` and
            `data` of the stored config.

    Raises:
        BadValueError: if a file with the ending of `request.out` cannot hold the table.
        MissingFileError: if the run has no `best/`.
        CheckpointError: if its weights do not fit.
        ClassOrderError: if the manifest has other classes than the checkpoint.
    """
    _check_ending(request)
    checkpoint = run_dir / "best" if (run_dir / "best").is_dir() else run_dir
    info = read_info(checkpoint)
    config = check_config(
        apply_overrides(info.config, request.overrides),
        member.config_class,
        str(checkpoint / "config.yaml"),
    )
    manifest = request.manifest
    info.emotions.require_same_order(
        manifest.emotions, what="The manifest", where=f"the checkpoint {str(checkpoint)!r}"
    )
    rows = manifest.select(request.selection)
    inputs = member.build_inputs(config)
    transcripts = config.data.transcripts
    clips, problems = collect_clips(
        rows, manifest, inputs, (transcripts, "predict") if transcripts else None
    )
    clips.sort(key=lambda clip: (-clip.duration_s, clip.utterance))
    digest = _digest(checkpoint, config, request, rows["utterance"].tolist(), clips)
    if request.out.is_file() and request.out.suffix == ".parquet":
        table = read_table(request.out)
        if table.meta.get("digest") == digest:
            _logger.info("%s is there already", request.out)
            return table

    state = PartialState(cpu=not torch.accelerator.is_available())
    model = build_classifier(member, config, len(info.emotions))
    load_weights(checkpoint, model)
    model.to(state.device).eval()

    audio = config.audio
    cropping = Cropping(audio.eval_crop, audio.max_audio_s, audio.normalize)
    load: PieceLoader = fresh_loader(inputs, cropping)
    collate: Any = inputs.collate
    parts = request.out.with_name(f".{request.out.name}.parts") / digest
    chunks = [clips[at : at + CHUNK_SIZE] for at in range(0, len(clips), CHUNK_SIZE)]
    if config.cache is not None:
        store = FeatureStore(config.cache, model.backbone, inputs, cropping)
        unread = store.fill(clips, batch_size=config.inference.batch_size, device=state.device)
        bad = {problem.utterance for problem in unread}
        problems += unread
        chunks = [[clip for clip in chunk if clip.utterance not in bad] for chunk in chunks]
        load, collate = store.load, collate_features

    mine = range(state.process_index, len(chunks), state.num_processes)
    with progress(
        f"predicting {config.name}", sum(len(chunks[n]) for n in mine), shown=state.is_main_process
    ) as advance:
        for number in mine:
            part = parts / f"part-{number:05d}.parquet"
            if not part.is_file():
                table = _predict_chunk(
                    chunks[number], model, load, collate, config, info.emotions, state.device
                )
                write_table(table, part)
            advance(len(chunks[number]))
    state.wait_for_everyone()
    table = _merge(
        [read_table(parts / f"part-{number:05d}.parquet") for number in range(len(chunks))],
        rows["utterance"].tolist(),
        problems,
        config,
        info,
        request,
        _meta(model, config, info, checkpoint, request, digest),
    )
    state.wait_for_everyone()
    if state.is_main_process:
        unusable = [
            Problem(utterance, reason)
            for utterance, reason in zip(table.utterances, table.reasons, strict=True)
            if reason is not None
        ]
        write_problems(request.out.with_suffix(".problems.csv"), unusable)
        write_table(table, request.out)
        # There are no parts where the manifest names no audio at all.
        shutil.rmtree(parts.parent, ignore_errors=True)
    state.wait_for_everyone()
    return table


class _ChunkDataset(Dataset[tuple[int, list[dict[str, Any]] | str]]):
    """Clips in batches' order; a clip that cannot be read yields its reason instead of pieces."""

    def __init__(self, clips: Sequence[Clip], load: PieceLoader) -> None:
        self.clips = clips
        self.load = load

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, idx: int) -> tuple[int, list[dict[str, Any]] | str]:
        try:
            return idx, self.load(self.clips[idx], 0)
        except AudioError as err:
            return idx, str(err)


@torch.inference_mode()
def _predict_chunk(
    clips: Sequence[Clip],
    model: EmotionClassifier,
    load: PieceLoader,
    collate: Any,
    config: ClassifierConfig,
    emotions: EmotionSet,
    device: torch.device,
) -> PredictionTable:
    """The table of one part, in the order of its clips."""
    n_classes, width = len(emotions), model.head.last_linear.in_features
    probs = np.full((len(clips), n_classes), np.nan, dtype=np.float32)
    embeddings = np.full((len(clips), width), np.nan, dtype=np.float32)
    labels = np.full(len(clips), ABSTAIN, dtype=np.int64)
    reasons: list[str | None] = [None] * len(clips)
    loader = DataLoader(
        _ChunkDataset(clips, load),
        batch_size=config.inference.batch_size,
        num_workers=config.inference.num_workers,
        collate_fn=list,
    )
    for batch in loader:
        read = [(idx, pieces) for idx, pieces in batch if not isinstance(pieces, str)]
        for idx, reason in batch:
            if isinstance(reason, str):
                reasons[idx] = reason
        if not read:
            continue
        inputs = collate([piece for _, pieces in read for piece in pieces])
        piece_of = torch.repeat_interleave(torch.tensor([len(pieces) for _, pieces in read]))
        with _autocast(config, device):
            output = model(
                {key: value.to(device) for key, value in inputs.items()},
                piece_of=piece_of.to(device),
            )
        idx = [idx for idx, _ in read]
        logits = output.logits.float().cpu()
        probs[idx] = logits.softmax(dim=1).numpy()
        embeddings[idx] = output.embeddings.float().cpu().numpy()
        labels[idx] = logits.argmax(dim=1).numpy()
    return PredictionTable(
        name=config.name,
        emotions=emotions,
        utterances=tuple(clip.utterance for clip in clips),
        labels=labels,
        reasons=tuple(reasons),
        probs=probs,
        embeddings=embeddings,
    )


def _autocast(config: ClassifierConfig, device: torch.device) -> Any:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = types.get(config.inference.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _merge(
    parts: Sequence[PredictionTable],
    utterances: Sequence[str],
    problems: Sequence[Problem],
    config: ClassifierConfig,
    info: CheckpointInfo,
    request: PredictRequest,
    meta: dict[str, Any],
) -> PredictionTable:
    """All parts in the manifest's order; rows without a clip abstain with their reason."""
    place = {utterance: idx for idx, utterance in enumerate(utterances)}
    n_utts, n_classes = len(utterances), len(info.emotions)
    labels = np.full(n_utts, ABSTAIN, dtype=np.int64)
    probs = np.full((n_utts, n_classes), np.nan, dtype=np.float32)
    embeddings: Any = None
    reasons: list[str | None] = [None] * n_utts
    for problem in problems:
        reasons[place[problem.utterance]] = problem.reason
    for part in parts:
        assert part.probs is not None
        assert part.embeddings is not None
        idx = [place[utterance] for utterance in part.utterances]
        labels[idx], probs[idx] = part.labels, part.probs
        if request.with_embedding:
            if embeddings is None:
                embeddings = np.full((n_utts, part.embeddings.shape[1]), np.nan, dtype=np.float32)
            embeddings[idx] = part.embeddings
        for utterance, reason in zip(part.utterances, part.reasons, strict=True):
            reasons[place[utterance]] = reason
    return PredictionTable(
        name=config.name,
        emotions=info.emotions,
        utterances=tuple(utterances),
        labels=labels,
        reasons=tuple(reasons),
        probs=probs,
        embeddings=embeddings,
        meta=meta,
    )


def _meta(
    model: EmotionClassifier,
    config: ClassifierConfig,
    info: CheckpointInfo,
    checkpoint: Path,
    request: PredictRequest,
    digest: str,
) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "member": config.member,
        "selection": list(request.selection),
        "checkpoint": str(checkpoint),
        "config_digest": info.facts["digest"],
        "absorbed_prior": info.facts["absorbed_prior"],
        "seed": config.seed,
        "digest": digest,
        "version": abhinaya.__version__,
    }
    if request.with_embedding:
        last = model.head.last_linear
        meta["head"] = {
            "weight": last.weight.detach().cpu().tolist(),
            "bias": last.bias.detach().cpu().tolist(),
        }
    return meta


def _check_ending(request: PredictRequest) -> None:
    """Say now what would otherwise be said after hours of work."""
    if request.out.suffix not in (".parquet", ".csv"):
        raise BadValueError(f"The table {str(request.out)!r} must end in .parquet or .csv.")
    if request.with_embedding and request.out.suffix == ".csv":
        raise BadValueError(
            f"A CSV holds no embeddings, but {str(request.out)!r} should. Let it end in .parquet, "
            "or do not ask for embeddings."
        )


def _digest(
    checkpoint: Path,
    config: ClassifierConfig,
    request: PredictRequest,
    utterances: list[str],
    clips: Sequence[Clip],
) -> str:
    """Hash of all that decides the table, so that no other run's table or part is taken for it."""

    def sound(clip: Clip) -> str | None:
        try:
            return audio_digest(clip.path) if clip.path is not None else None
        except AudioError:
            return None  # it will abstain, until the file is there

    with (checkpoint / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    with ThreadPoolExecutor(_N_READERS) as pool:
        sounds = list(pool.map(sound, clips))
    return digest_of(
        {
            "weights": weights,
            "config": config_digest(config, without=_NOT_IN_DIGEST),
            "features": config.cache.dtype if config.cache else "float32",
            "manifest": request.manifest.digest,
            "utterances": utterances,
            "clips": [(c.utterance, c.text, s) for c, s in zip(clips, sounds, strict=True)],
            "with_embedding": request.with_embedding,
        }
    )
