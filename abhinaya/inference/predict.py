"""Predictions of a trained classifier: sharded, resumable, in the manifest's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abhinaya.config import apply_overrides, check_config
from abhinaya.data.attributes import ATTRIBUTES
from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import CheckpointError
from abhinaya.files import digest_of, hash_file
from abhinaya.inference.loaded import load_once
from abhinaya.inference.logit_adjustment import adjust_logits, facts_of_adjustment
from abhinaya.inference.sharding import (
    Batches,
    check_ending,
    cut,
    find_table,
    plan_table,
    predict_in_shards,
    read_batches,
)
from abhinaya.loading.clips import Clip, Cropping, collect_clips, digest_clips
from abhinaya.loading.dataset import SegmentLoader, fresh_loader
from abhinaya.loading.joined import open_store
from abhinaya.loading.speaker_scaling import scale_speakers
from abhinaya.member import PredictRequest
from abhinaya.nn.build import ClassifierBuilder, build_classifier
from abhinaya.nn.checkpoint import WEIGHTS, load_weights, read_info, read_training_rows
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.processes import join_launch
from abhinaya.weight_places import locate_weights

__all__ = ["predict_classifier"]

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
    missing = [key for key in ("digest", "absorbed_prior") if key not in info.facts]
    if missing:
        raise CheckpointError(
            f"{str(checkpoint / 'facts.json')!r} lacks {', '.join(missing)}. Copy the run again."
        )
    located = locate_weights(info.config, checkpoint, info.facts.get("weights", {}))
    # Where the weights lie now decides nothing, so the table's digest has their stored place.
    stored, config = (
        check_config(
            apply_overrides(content, request.overrides),
            member.config_class,
            str(checkpoint / "config.yaml"),
        )
        for content in (info.config, located)
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
    trained_on = read_training_rows(checkpoint, info.facts)
    tau = stored.inference.logit_adjustment
    weights = hash_file(checkpoint / WEIGHTS)
    plan = plan_table(
        stored,
        request,
        without=_NOT_IN_DIGEST,
        weights=weights,
        batch_size=config.inference.batch_size if config.depends_on_batch else None,
        features=config.cache.dtype if config.cache else "float32",
        clips=digest_clips(clips),
        with_embedding=request.with_embedding,
        **facts_of_adjustment(tau, info.facts),
        # A table from before such lists were kept is made again; a run without one keeps its.
        **({} if trained_on is None else {"training_rows": info.facts["training_rows"]}),
    )
    if trained_on is not None:
        plan = replace(plan, trained_on=np.isin(plan.utterances, trained_on))
    found = find_table(plan)
    if found is not None:
        return found

    state = join_launch()

    def load_model() -> tuple[EmotionClassifier, list[float] | None]:
        model = build_classifier(member, config, len(info.emotions))
        load_weights(checkpoint, model)
        absorbed = adjust_logits(model, tau, info.facts, checkpoint)
        return model.to(state.device).eval(), absorbed

    key = [str(checkpoint.absolute()), weights, config.model_dump(mode="json"), info.facts]
    model, absorbed = load_once(digest_of(key), load_model)

    audio = config.audio
    cropping = Cropping(audio.eval_crop, audio.max_audio_s, audio.normalize)
    load: SegmentLoader = fresh_loader(inputs, cropping)
    collate: Any = inputs.collate
    chunks = cut(clips)
    if config.cache is not None:
        store = open_store(config.cache, model.backbone, inputs, cropping)
        unread = store.fill(
            clips,
            batch_size=config.inference.batch_size,
            device=state.device,
            num_workers=config.inference.num_workers,
        )
        bad = {problem.utterance for problem in unread}
        problems += unread
        chunks = [[clip for clip in chunk if clip.utterance not in bad] for chunk in chunks]
        load, collate = store.load, store.collate
        if config.speaker_scaling is not None:
            every = [clip for chunk in chunks for clip in chunk]
            load = scale_speakers(load, every, config.speaker_scaling)

    def compute(chunks: Sequence[Sequence[Clip]]) -> Iterator[PredictionTable]:
        settings = config.inference
        every = read_batches(
            chunks, load, batch_size=settings.batch_size, num_workers=settings.num_workers
        )
        for chunk, batches in zip(chunks, every, strict=True):
            yield _predict_chunk(
                chunk, batches, model, collate, config, info.emotions, state.device
            )

    plan = plan.with_meta(
        checkpoint=str(checkpoint),
        config_digest=info.facts["digest"],
        absorbed_prior=absorbed,
    )
    if request.with_embedding:
        last = model.head.last_linear
        plan = plan.with_meta(
            head={
                "weight": last.weight.detach().cpu().tolist(),
                "bias": last.bias.detach().cpu().tolist(),
            }
        )
    return predict_in_shards(chunks, compute, problems, replace(plan, emotions=info.emotions))


@torch.inference_mode()
def _predict_chunk(
    clips: Sequence[Clip],
    batches: Batches,
    model: EmotionClassifier,
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
    told = () if config.attributes is None else config.attributes.regressed
    attributes = np.full((len(clips), len(ATTRIBUTES)), np.nan, dtype=np.float32) if told else None
    for idx, read, unread in batches:
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
        if attributes is not None:
            columns = [ATTRIBUTES.index(name) for name in told]
            attributes[np.ix_(idx, columns)] = output.attributes.float().cpu()[:, : len(told)]
    return PredictionTable(
        name=config.name,
        emotions=emotions,
        utterances=tuple(clip.utterance for clip in clips),
        labels=labels,
        reasons=tuple(reasons),
        probs=probs,
        embeddings=embeddings,
        attributes=attributes,
    )


def _autocast(config: ClassifierConfig, device: torch.device) -> Any:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = types.get(config.inference.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
