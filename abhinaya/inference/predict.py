"""Predictions of a trained classifier: sharded, resumable, in the manifest's order."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

import abhinaya
from abhinaya.config import apply_overrides, check_config, config_digest
from abhinaya.data.audio import audio_digest
from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import AudioError
from abhinaya.files import digest_of
from abhinaya.inference.sharding import (
    TablePlan,
    check_ending,
    cut,
    find_table,
    predict_in_shards,
    read_batches,
)
from abhinaya.loading.clips import Clip, Cropping, collect_clips
from abhinaya.loading.dataset import SegmentLoader, fresh_loader
from abhinaya.loading.features import FeatureStore
from abhinaya.member import PredictRequest
from abhinaya.nn.build import ClassifierBuilder, build_classifier
from abhinaya.nn.checkpoint import WEIGHTS, CheckpointInfo, load_weights, read_info
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["predict_classifier"]

_logger = logging.getLogger(__name__)

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
    member: ClassifierBuilder, run_dir: Path, request: PredictRequest
) -> PredictionTable:
    """Label every row of a selection with `best/` of a run.

    Clips are sorted by length and cut into shards; each process of a launch takes every n-th shard,
    so the processes get equal shares of audio. A finished shard is kept beside the table until the
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
    check_ending(request)
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
    clips.sort(key=lambda clip: (-clip.size, clip.utterance))
    digest = _digest(checkpoint, config, request, rows["utterance"].tolist(), clips)
    found = find_table(request, digest)
    if found is not None:
        return found

    state = PartialState(cpu=not torch.accelerator.is_available())
    model = build_classifier(member, config, len(info.emotions))
    load_weights(checkpoint, model)
    model.to(state.device).eval()

    audio = config.audio
    cropping = Cropping(audio.eval_crop, audio.max_audio_s, audio.normalize)
    load: SegmentLoader = fresh_loader(inputs, cropping)
    collate: Any = inputs.collate
    chunks = cut(clips)
    if config.cache is not None:
        store = FeatureStore(config.cache, model.backbone, inputs, cropping)
        unread = store.fill(clips, batch_size=config.inference.batch_size, device=state.device)
        bad = {problem.utterance for problem in unread}
        problems += unread
        chunks = [[clip for clip in chunk if clip.utterance not in bad] for chunk in chunks]
        load, collate = store.load, store.collate

    def compute(chunk: Sequence[Clip]) -> PredictionTable:
        return _predict_chunk(chunk, model, load, collate, config, info.emotions, state.device)

    return predict_in_shards(
        chunks,
        compute,
        problems,
        TablePlan(
            config.name,
            info.emotions,
            tuple(rows["utterance"]),
            request,
            _meta(model, config, info, checkpoint, request, digest),
        ),
    )


@torch.inference_mode()
def _predict_chunk(
    clips: Sequence[Clip],
    model: EmotionClassifier,
    load: SegmentLoader,
    collate: Any,
    config: ClassifierConfig,
    emotions: EmotionSet,
    device: torch.device,
) -> PredictionTable:
    """Return the table of one shard, in the order of its clips."""
    n_classes, width = len(emotions), model.head.last_linear.in_features
    probs = np.full((len(clips), n_classes), np.nan, dtype=np.float32)
    embeddings = np.full((len(clips), width), np.nan, dtype=np.float32)
    labels = np.full(len(clips), ABSTAIN, dtype=np.int64)
    reasons: list[str | None] = [None] * len(clips)
    for idx, read, unread in read_batches(
        clips,
        load,
        batch_size=config.inference.batch_size,
        num_workers=config.inference.num_workers,
    ):
        for row, reason in unread.items():
            reasons[row] = reason
        if not read:
            continue
        inputs = collate([segment for segments in read for segment in segments])
        segment_of = torch.repeat_interleave(torch.tensor([len(segments) for segments in read]))
        with _autocast(config, device):
            output = model(
                {key: value.to(device) for key, value in inputs.items()},
                segment_of=segment_of.to(device),
            )
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


def _digest(
    checkpoint: Path,
    config: ClassifierConfig,
    request: PredictRequest,
    utterances: list[str],
    clips: Sequence[Clip],
) -> str:
    """Hash of all that decides the table, so that no other run's table or shard is taken for it."""

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
            "batch_size": config.inference.batch_size if config.depends_on_batch else None,
            "features": config.cache.dtype if config.cache else "float32",
            "manifest": request.manifest.digest,
            "utterances": utterances,
            "clips": [(c.utterance, c.text, s) for c, s in zip(clips, sounds, strict=True)],
            "with_embedding": request.with_embedding,
        }
    )
