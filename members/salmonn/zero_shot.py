"""The member `salmonn-zero-shot`: asks SALMONN for the emotion and reads its answer.

Nothing is trained. With SALMONN-13B it is the zero-shot row of S2 in the Abhinaya system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from abhinaya.config import config_digest
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError
from abhinaya.inference.loaded import load_once
from abhinaya.inference.zero_shot import Outcome, ZeroShotMember, predict_outcomes
from abhinaya.loading.clips import Clip, Cropping, collect_clips, digest_clips
from abhinaya.member import PredictRequest
from abhinaya.processes import join_launch
from abhinaya.prompting.answers import AnswerParser
from members.salmonn.build import build_backbone, build_inputs
from members.salmonn.doctor import check_salmonn
from members.salmonn.sequence import store_prompts
from members.salmonn.zero_shot_config import Decoding, SalmonnZeroShotConfig

if TYPE_CHECKING:
    from abhinaya.doctor.findings import Findings
    from members.salmonn.inputs import SalmonnInputs
    from members.salmonn.model import SalmonnBackbone

__all__ = ["ZERO_SHOT", "Decoding", "SalmonnZeroShotConfig", "SalmonnZeroShotMember"]

# What changes an answer by no more than rounding, or not at all.
_NOT_IN_DIGEST = ("data", "inference.batch_size", "inference.num_workers")

# What is asked, of which clips and how, once the model is there.
_NOT_IN_WEIGHTS = (
    *("name", "seed", "data", "audio", "decoding", "inference", "max_text_tokens"),
    *("prompt", "prompt_pool", "prompt_template", "stored_prompts"),
)


class SalmonnZeroShotMember(ZeroShotMember):
    """Labels from generated answers; an answer that names no class, or several, abstains."""

    name = "salmonn-zero-shot"
    config_class = SalmonnZeroShotConfig

    def ask(self, config: SalmonnZeroShotConfig, request: PredictRequest) -> PredictionTable:
        """Ask about every clip of a selection.

        Raises:
            BadValueError: if the prompt does not suit the member, several crops are asked for, or
                clips are let through that are longer than the model hears.
        """
        from abhinaya.inference.sharding import find_table, plan_table

        config = store_prompts(config)
        rows = request.manifest.select(request.selection)
        inputs = self._build_inputs(config, request.manifest)
        transcripts = config.data.transcripts
        clips, problems = collect_clips(
            rows, request.manifest, inputs, (transcripts, "predict") if transcripts else None
        )
        plan = plan_table(
            config,
            request,
            without=_NOT_IN_DIGEST,
            clips=digest_clips(clips),
            batch_size=config.inference.batch_size if config.depends_on_batch else None,
        )
        found = find_table(plan)
        if found is not None:
            return found
        key = config_digest(config, without=_NOT_IN_WEIGHTS)
        backbone = load_once(key, lambda: _load_backbone(config))
        prompt = inputs.tokens.prompts[0]
        asked = "\n".join(turn.text for turn in prompt.turns)
        parser = AnswerParser(request.manifest.emotions, asked)

        def answer(chunks: Sequence[Sequence[Clip]]) -> Iterator[list[Outcome]]:
            return _answer(chunks, backbone, inputs, config, parser)

        return predict_outcomes(clips, answer, problems, plan.with_meta(prompt=prompt.name))

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
            published=config.depends_on_batch,
            emotions=manifest.emotions,
        )
        if config.audio.max_audio_s > inputs.window_s:
            raise BadValueError(
                f"audio.max_audio_s is {config.audio.max_audio_s:g}, but {config.whisper!r} hears "
                f"{inputs.window_s:g} s at once. Set it to {inputs.window_s:g} or less."
            )
        return inputs


def _load_backbone(config: SalmonnZeroShotConfig) -> SalmonnBackbone:
    backbone = build_backbone(config, with_vocabulary=True)
    backbone.to(join_launch().device).eval()
    return backbone


def _answer(
    chunks: Sequence[Sequence[Clip]],
    backbone: SalmonnBackbone,
    inputs: SalmonnInputs,
    config: SalmonnZeroShotConfig,
    parser: AnswerParser,
) -> Iterator[list[Outcome]]:
    """Yield the outcomes of each shard, in the order of its clips."""
    from abhinaya.inference.sharding import read_batches
    from abhinaya.loading.dataset import fresh_loader
    from members.salmonn.answer import generate_answers

    audio = config.audio
    load = fresh_loader(inputs, Cropping(audio.eval_crop, audio.max_audio_s, audio.normalize))
    for batches in read_batches(
        chunks,
        load,
        batch_size=config.inference.batch_size,
        num_workers=config.inference.num_workers,
    ):
        outcomes: dict[int, Outcome] = {}
        for idx, read, unread in batches:
            outcomes |= {row: Outcome(ABSTAIN, reason) for row, reason in unread.items()}
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
                outcomes[row] = Outcome(parsed.label, parsed.reason, raw=answer)
        yield [outcomes[row] for row in sorted(outcomes)]


ZERO_SHOT = SalmonnZeroShotMember()
