"""The member `onnx`: an exported model labels as the run did that it was exported from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.config import MemberConfig, apply_overrides, load_yaml, merge
from abhinaya.data.audio import SAMPLE_RATE_HZ, pad_waveforms
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.predictions import PredictionTable
from abhinaya.doctor.findings import Findings, format_bytes
from abhinaya.errors import BadValueError
from abhinaya.export.folder import MODEL, read_export, run_session, start_session
from abhinaya.inference.zero_shot import Outcome, ZeroShotMember, predict_outcomes
from abhinaya.loading.clips import Clip, Cropping, collect_clips, digest_clips
from abhinaya.member import PredictRequest, Utterance
from abhinaya.member_config import check_member_config
from members.onnx.config import OnnxConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["MEMBER", "OnnxMember"]

# What changes a table by no more than rounding, or not at all; the model's own hash counts.
_NOT_IN_DIGEST = ("data", "base", "inference")


class _Waveforms:
    """Segments as they are; the graph normalises itself."""

    needs_audio = True
    needs_text = False

    def __init__(self, max_samples: int | None) -> None:
        self.max_samples = max_samples

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return `waveform`, shape (S,).

        Raises:
            BadValueError: if it is longer than the model hears.
        """
        waveform = utterance.waveform
        assert waveform is not None
        if self.max_samples is not None and len(waveform) > self.max_samples:
            raise BadValueError(
                f"{utterance.name!r} has {len(waveform) / SAMPLE_RATE_HZ:g} s, but the export hears"
                f" {self.max_samples / SAMPLE_RATE_HZ:g} s at once. Export the run with "
                "audio.eval_crop=centre, or another crop than full."
            )
        return {"waveform": waveform}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `waveforms`, shape (B, S), and their `lengths`, shape (B,)."""
        waveforms, mask = pad_waveforms([inputs["waveform"] for inputs in encoded])
        return {"waveforms": waveforms, "lengths": mask.sum(axis=1)}


class OnnxMember(ZeroShotMember):
    """Labels from an exported model. Nothing is trained; its crops are those of its run."""

    name = "onnx"
    config_class = OnnxConfig

    def predict(self, source: Path | MemberConfig, request: PredictRequest) -> PredictionTable:
        """Label every row of a selection, from a config or from the exported folder itself.

        Raises:
            ProblemsError: if the config in the folder is wrong.
            BadValueError: see `ZeroShotMember.predict`.
        """
        if isinstance(source, Path):
            file = source / "config.yaml"
            # The folder may have moved since it was written.
            here = {"base": str(source), "data": {"manifest": "(as requested)"}}
            content = apply_overrides(merge(load_yaml(file), here), request.overrides)
            source = check_member_config(content, str(file))
        return super().predict(source, request)

    def ask(self, config: OnnxConfig, request: PredictRequest) -> PredictionTable:
        """Label every row of a selection, write the table and return it.

        Raises:
            MissingFileError: if the folder is no export.
            CheckpointError: if it is damaged.
            ClassOrderError: if the manifest has other classes than the export.
            MissingPackageError: if onnxruntime is not installed.
        """
        import torch

        from abhinaya.inference.sharding import find_table, plan_table, read_batches
        from abhinaya.loading.dataset import fresh_loader
        from abhinaya.nn.checkpoint import read_training_rows

        folder, manifest = Path(config.base), request.manifest
        info = read_export(folder)
        info.emotions.require_same_order(
            manifest.emotions, what="The manifest", where=f"the export {config.base!r}"
        )
        session = start_session(folder / MODEL, torch.get_num_threads())
        inputs = _Waveforms(info.max_samples)
        clips, problems = collect_clips(manifest.select(request.selection), manifest, inputs)
        plan = plan_table(
            config,
            request,
            without=_NOT_IN_DIGEST,
            model=info.model_sha256,
            clips=digest_clips(clips),
            training_rows=info.training_rows,
        )
        trained_on = read_training_rows(folder, {"training_rows": info.training_rows})
        if trained_on is not None:
            plan = replace(plan, trained_on=np.isin(plan.utterances, trained_on))
        found = find_table(plan)
        if found is not None:
            return found
        load = fresh_loader(inputs, Cropping(info.eval_crop, info.max_audio_s))
        runs_alone = info.quantization != "none"

        def answer(chunks: Sequence[Sequence[Clip]]) -> Iterator[list[Outcome]]:
            every = read_batches(
                chunks,
                load,
                batch_size=config.inference.batch_size,
                num_workers=config.inference.num_workers,
            )
            for chunk, batches in zip(chunks, every, strict=True):
                outcomes: list[Outcome] = [Outcome(ABSTAIN)] * len(chunk)
                for idx, read, unread in batches:
                    for row, reason in unread.items():
                        outcomes[row] = Outcome(ABSTAIN, reason)
                    if not read:
                        continue
                    segments = [segment for some in read for segment in some]
                    size = 1 if runs_alone else len(segments)
                    parts = [segments[at : at + size] for at in range(0, len(segments), size)]
                    logits = [_run(session, inputs.collate(part)) for part in parts]
                    ends = np.cumsum([len(some) for some in read])[:-1]
                    for row, some in zip(idx, np.split(np.concatenate(logits), ends), strict=True):
                        outcomes[row] = _outcome(some.mean(axis=0))
                yield outcomes

        plan = plan.with_meta(
            checkpoint=str(folder),
            config_digest=info.run_digest,
            absorbed_prior=info.absorbed_prior and list(info.absorbed_prior),
            quantization=info.quantization,
        )
        return predict_outcomes(clips, answer, problems, plan)

    def check_weights(self, config: OnnxConfig) -> Findings:
        """Return what `abhinaya doctor` finds of the exported folder."""
        findings = Findings()
        folder = Path(config.base)
        info = findings.attempt("base", config.base, lambda: read_export(folder))
        if info is None:
            return findings
        size = format_bytes((folder / MODEL).stat().st_size)
        findings.add(
            "base",
            config.base,
            "ok",
            f"the member {info.member} exported as {info.name}, quantization {info.quantization}, "
            f"{size}, classes {' '.join(info.classes)}",
        )
        findings.attempt(
            "model", folder / MODEL, lambda: start_session(folder / MODEL), "onnxruntime loads it"
        )
        return findings


def _run(session: InferenceSession, batch: dict[str, Any]) -> NDArray[np.float32]:
    return run_session(session, batch["waveforms"], batch["lengths"])


def _outcome(logits: NDArray[np.float32]) -> Outcome:
    exponents = np.exp(logits - logits.max())
    probs = exponents / exponents.sum()
    return Outcome(int(logits.argmax()), probs=tuple(probs.tolist()))


MEMBER = OnnxMember()
