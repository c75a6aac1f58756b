"""The member `salmonn-zero-shot`: asks SALMONN for the emotion and reads its answer.

Nothing is trained. With SALMONN-13B it is the zero-shot row of S2 in the Abhinaya system.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abhinaya import __version__
from abhinaya.config import Config, MemberConfig, config_digest
from abhinaya.data.audio import audio_digest
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import AudioError, BadValueError
from abhinaya.files import digest_of
from abhinaya.loading.clips import Clip, Cropping, collect_clips
from abhinaya.member import PredictRequest
from abhinaya.nn.classifier_config import AudioConfig, InferenceConfig
from abhinaya.prompting.answers import AnswerParser
from members.salmonn.build import build_backbone, build_inputs
from members.salmonn.config import SalmonnSources
from members.salmonn.doctor import check_salmonn
from members.salmonn.sequence import store_prompts

if TYPE_CHECKING:
    from abhinaya.doctor.findings import Findings
    from abhinaya.inference.sharding import TablePlan
    from members.salmonn.inputs import SalmonnInputs
    from members.salmonn.model import SalmonnBackbone

__all__ = ["ZERO_SHOT", "Decoding", "SalmonnZeroShotConfig", "SalmonnZeroShotMember"]

_N_READERS = 8


class Decoding(Config):
    """How an answer is generated: beam search, without sampling."""

    n_beams: int = 4
    """1 takes the likeliest token each time."""
    max_new_tokens: int = 10
    """Longest answer."""


class SalmonnZeroShotConfig(SalmonnSources):
    """SALMONN as it was published, and how it is asked."""

    audio: AudioConfig = AudioConfig(max_audio_s=30.0, eval_crop="first")
    decoding: Decoding = Decoding()
    inference: InferenceConfig = InferenceConfig(batch_size=4)


class SalmonnZeroShotMember:
    """Labels from generated answers; an answer that names no class, or several, abstains."""

    config_class = SalmonnZeroShotConfig

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
        """Ask about every row of a selection.

        Raises:
            BadValueError: if `source` is no config, the prompt does not suit the member, several
                crops are asked for, or clips are let through that are longer than the model hears.
        """
        from abhinaya.inference.sharding import (
            TablePlan,
            check_ending,
            cut,
            find_table,
            predict_in_shards,
        )

        if not isinstance(source, SalmonnZeroShotConfig):
            raise BadValueError(
                f"salmonn-zero-shot predicts from its config, not from {str(source)!r}. Name the "
                "YAML file."
            )
        if request.with_embedding:
            raise BadValueError(
                "salmonn-zero-shot gives labels without embeddings. Leave out --with embedding."
            )
        check_ending(request)
        source = store_prompts(source)
        rows = request.manifest.select(request.selection)
        emotions = request.manifest.emotions
        inputs = self._build_inputs(source, request.manifest)
        transcripts = source.data.transcripts
        clips, problems = collect_clips(
            rows, request.manifest, inputs, (transcripts, "predict") if transcripts else None
        )
        utterances = tuple(rows["utterance"])
        digest = _digest(source, request, utterances, clips)
        found = find_table(request, digest)
        if found is not None:
            return found
        meta = {
            "member": source.member,
            "selection": list(request.selection),
            "prompt": inputs.tokens.prompts[0].name,
            "absorbed_prior": None,
            "seed": source.seed,
            "digest": digest,
            "version": __version__,
        }
        plan = TablePlan(source.name, emotions, utterances, request, meta)
        backbone = _load_backbone(source)

        def compute(chunk: Sequence[Clip]) -> PredictionTable:
            return _ask(chunk, backbone, inputs, source, plan)

        return predict_in_shards(cut(clips), compute, problems, plan)

    def check_weights(self, config: SalmonnZeroShotConfig) -> Findings:
        """Return what `abhinaya doctor` finds of the weights that a config names."""
        needs_text = config.data.transcripts is not None
        return check_salmonn(config, needs_text=needs_text, lists_classes=True)

    def _build_inputs(self, config: SalmonnZeroShotConfig, manifest: Manifest) -> SalmonnInputs:
        if isinstance(config.audio.eval_crop, int):
            raise BadValueError(
                f"audio.eval_crop is {config.audio.eval_crop}, but answers in words have no mean. "
                "Set it to first, centre or full."
            )
        inputs = build_inputs(
            config,
            needs_text=config.data.transcripts is not None,
            emotions=manifest.emotions,
        )
        if config.audio.max_audio_s > inputs.window_s:
            raise BadValueError(
                f"audio.max_audio_s is {config.audio.max_audio_s:g}, but {config.whisper!r} hears "
                f"{inputs.window_s:g} s at once. Set it to {inputs.window_s:g} or less."
            )
        return inputs


def _load_backbone(config: SalmonnZeroShotConfig) -> SalmonnBackbone:
    import torch
    from accelerate import PartialState

    device = PartialState(cpu=not torch.accelerator.is_available()).device
    backbone = build_backbone(config, with_vocabulary=True)
    backbone.to(device).eval()
    return backbone


def _ask(
    clips: Sequence[Clip],
    backbone: SalmonnBackbone,
    inputs: SalmonnInputs,
    config: SalmonnZeroShotConfig,
    plan: TablePlan,
) -> PredictionTable:
    """Return the table of one shard, in the order of its clips."""
    from abhinaya.inference.sharding import read_batches
    from abhinaya.loading.dataset import fresh_loader
    from members.salmonn.answer import generate_answers

    audio = config.audio
    load = fresh_loader(inputs, Cropping(audio.eval_crop, audio.max_audio_s, audio.normalize))
    asked = "\n".join(turn.text for turn in inputs.tokens.prompts[0].turns)
    parser = AnswerParser(plan.emotions, asked)
    labels = np.full(len(clips), ABSTAIN, dtype=np.int64)
    reasons: list[str | None] = [None] * len(clips)
    raw: list[str | None] = [None] * len(clips)
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
        batch = inputs.collate([segment for segments in read for segment in segments])
        answers = generate_answers(
            backbone,
            inputs.tokens.tokenizer,
            batch,
            n_beams=config.decoding.n_beams,
            max_new_tokens=config.decoding.max_new_tokens,
            precision=config.inference.precision,
        )
        for row, answer in zip(idx, answers, strict=True):
            parsed = parser.parse(answer)
            labels[row], reasons[row], raw[row] = parsed.label, parsed.reason, answer
    return PredictionTable(
        name=plan.name,
        emotions=plan.emotions,
        utterances=tuple(clip.utterance for clip in clips),
        labels=labels,
        reasons=tuple(reasons),
        raw=tuple(raw),
    )


# What changes an answer by no more than rounding, or not at all.
_NOT_IN_DIGEST = ("data", "inference.batch_size", "inference.num_workers")


def _digest(
    config: SalmonnZeroShotConfig,
    request: PredictRequest,
    utterances: tuple[str, ...],
    clips: Sequence[Clip],
) -> str:
    """Hash of all that decides the table, so that no other one is taken for it."""

    def sound(clip: Clip) -> str | None:
        try:
            return audio_digest(clip.path) if clip.path is not None else None
        except AudioError:
            return None  # it will abstain, until the file is there

    with ThreadPoolExecutor(_N_READERS) as pool:
        sounds = list(pool.map(sound, clips))
    heard: list[Any] = [
        (clip.utterance, clip.text, digest) for clip, digest in zip(clips, sounds, strict=True)
    ]
    return digest_of(
        {
            "config": config_digest(config, without=_NOT_IN_DIGEST),
            "manifest": request.manifest.digest,
            "utterances": utterances,
            "clips": heard,
        }
    )


ZERO_SHOT = SalmonnZeroShotMember()
