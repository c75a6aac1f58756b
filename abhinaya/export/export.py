"""From a run directory to a folder that runs without torch."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abhinaya import __version__
from abhinaya.config import apply_overrides, check_config
from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.errors import BadValueError, require_package
from abhinaya.export.folder import (
    MODEL,
    ExportInfo,
    Quantization,
    write_info,
)
from abhinaya.files import atomic_folder, hash_file, write_text
from abhinaya.registry import load_member
from abhinaya.weight_places import locate_weights

__all__ = ["Exported", "export_checkpoint", "require_exportable"]

_logger = logging.getLogger(__name__)

_MAX_BYTES = 2**31
"""A file of ONNX is one message of protobuf, which holds less than 2 GiB."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        info: its export.json.
        n_bytes: size of model.onnx.
        difference: between torch and the float32 graph on noise, see `write_graph`.
    """

    info: ExportInfo
    n_bytes: int
    difference: float


def export_checkpoint(
    checkpoint: Path, out: Path, *, quantize: Quantization = "none", overrides: Sequence[str] = ()
) -> Exported:
    """Write a checkpoint of a speech member as ONNX, with all that running it takes.

    The graph holds everything from the waveform to the logits: normalising, log-mel spectrogram,
    encoder, pooling, head. Batch and time are of any size, and a row's result does not depend on
    the others, int8 aside: there the numbers are rounded by the loudest row of a batch.

    Args:
        checkpoint: what `predict` reads, such as `best/` of a run.
        out: folder to write: model.onnx, export.json, config.yaml of the member `onnx`.
        quantize: `int8` stores weights in 8 bits and computes in integers.
        overrides: `key=value` changes of the stored config, such as `base=/new/place`.

    Raises:
        BadValueError: if `out` exists, or the member is none that ONNX can hold.
        MissingFileError: if the checkpoint is none.
        CheckpointError: if its weights do not fit.
        MissingPackageError: if the extra `export` is not installed.
    """
    if out.exists():
        raise BadValueError(
            f"{str(out)!r} exists, and an export overwrites nothing. Remove it, or choose another "
            "--out."
        )
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require_package(package, "Exporting to ONNX", "export")
    from abhinaya.export.graph import MIN_SAMPLES, OPSET, WaveformClassifier, write_graph
    from abhinaya.inference.logit_adjustment import adjust_logits
    from abhinaya.nn.build import build_classifier
    from abhinaya.nn.checkpoint import (
        load_weights,
        read_info,
        read_training_rows,
        write_training_rows,
    )

    about = read_info(checkpoint)
    name = str(about.config.get("member"))
    member: Any = load_member(name)
    require_exportable(name)
    config = check_config(
        apply_overrides(
            locate_weights(about.config, checkpoint, about.facts.get("weights", {})), overrides
        ),
        member.config_class,
        str(checkpoint / "config.yaml"),
    )
    if config.speaker_scaling is not None:
        raise BadValueError(
            f"An exported model hears one clip at a time, but the features of {config.name!r} are "
            "scaled by all clips of a speaker. Train it without speaker_scaling."
        )
    classifier = build_classifier(member, config, len(about.emotions))
    load_weights(checkpoint, classifier)
    if config.attributes is not None:
        _logger.warning("%s: the graph predicts classes only, no attributes", config.name)
    absorbed = adjust_logits(classifier, config.inference.logit_adjustment, about.facts, checkpoint)
    model = WaveformClassifier(
        member.build_front_end(config), classifier, normalize=config.audio.normalize
    )
    n_bytes = sum(parameter.nbytes for parameter in classifier.parameters())
    if n_bytes >= _MAX_BYTES:
        raise BadValueError(
            f"The member {name!r} with {config.base!r} has {n_bytes / 2**30:.1f} GiB of weights, "
            "but one ONNX file holds less than 2 GiB. Train and export a smaller base."
        )
    with atomic_folder(out) as folder:
        difference = write_graph(model.eval(), folder / MODEL)
        if quantize == "int8":
            from abhinaya.export.quantize import quantize_int8

            quantize_int8(folder / MODEL)
        trained_on = read_training_rows(checkpoint, about.facts)
        info = ExportInfo(
            name=config.name,
            member=name,
            classes=about.emotions.codes,
            class_names=about.emotions.names,
            outside=about.emotions.outside,
            sample_rate_hz=SAMPLE_RATE_HZ,
            min_samples=MIN_SAMPLES,
            max_samples=model.front_end.max_samples,
            max_audio_s=config.audio.max_audio_s,
            eval_crop=config.audio.eval_crop,
            quantization=quantize,
            run_digest=about.facts["digest"],
            absorbed_prior=None if absorbed is None else tuple(absorbed),
            training_rows=None if trained_on is None else write_training_rows(folder, trained_on),
            model_sha256=hash_file(folder / MODEL),
            versions={"abhinaya": __version__, "operators": str(OPSET)}
            | {
                package: importlib.metadata.version(package)
                for package in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
            },
        )
        write_info(info, folder)
        suffix = "onnx" if quantize == "none" else quantize
        lines = {"member": "onnx", "name": f"{config.name}-{suffix}", "base": str(out)}
        # A value of JSON is one of YAML, whatever is in the path.
        write_text(
            folder / "config.yaml",
            "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()),
        )
        size = (folder / MODEL).stat().st_size
    return Exported(info, size, difference)


def require_exportable(name: str) -> None:
    """Refuse a member whose model does not fit into a graph from waveform to logits.

    Args:
        name: of the member; one that can be exported has `build_front_end(config)`, which returns
            a module from waveforms and mask, both (B, S), to the inputs of its backbone.

    Raises:
        BadValueError: if it has none.
    """
    if not hasattr(load_member(name), "build_front_end"):
        raise BadValueError(
            f"The member {name!r} cannot be exported: a graph of ONNX holds an encoder of speech "
            "under a classification head, no language model, tokens or prompts. Export a run of a "
            "member such as wavlm or whisper-encoder."
        )
