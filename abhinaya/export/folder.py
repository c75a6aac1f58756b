"""The folder that an export writes: model.onnx, and export.json with all that running it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError, require_package
from abhinaya.files import hash_file, parse_json, read_text, write_json

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = [
    "INFO",
    "MODEL",
    "ExportInfo",
    "Quantization",
    "read_export",
    "run_session",
    "start_session",
    "write_info",
]

MODEL = "model.onnx"
INFO = "export.json"
_FORMAT = 1

Quantization = Literal["none", "int8"]


@dataclass(frozen=True)
class ExportInfo:
    """What export.json says.

    Args:
        name: of the run.
        member: what was exported.
        classes: codes, in the order of the logits.
        class_names: readable names, same order.
        outside: labels of the data that are never predicted.
        sample_rate_hz: of the waveforms.
        min_samples: shortest waveform.
        max_samples: longest waveform; None for no limit.
        max_audio_s: longest segment of a clip that the run heard at once.
        eval_crop: which segments of longer clips it heard: `first`, `centre`, `full`, or how many.
        quantization: `none` or `int8`.
        run_digest: of the run's config and data.
        absorbed_prior: class prior that the loss has absorbed, shape (K,); None for none.
        training_rows: digest of the utterances that it was trained on, which lie beside; None where
            nobody noted them.
        model_sha256: of model.onnx.
        versions: of what wrote it, by package, and of ONNX's operators.
    """

    name: str
    member: str
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    outside: tuple[str, ...]
    sample_rate_hz: int
    min_samples: int
    max_samples: int | None
    max_audio_s: float
    eval_crop: Literal["first", "centre", "full"] | int
    quantization: Quantization
    run_digest: str
    absorbed_prior: tuple[float, ...] | None
    training_rows: str | None
    model_sha256: str
    versions: dict[str, str]

    @property
    def emotions(self) -> EmotionSet:
        """The classes as a set."""
        return EmotionSet(self.classes, self.class_names, self.outside)


def write_info(info: ExportInfo, folder: Path) -> None:
    """Write export.json into a folder."""
    write_json(folder / INFO, {"format": _FORMAT, **asdict(info)})


def read_export(folder: Path) -> ExportInfo:
    """Read what an export says of itself, after a look whether its model is the one it names.

    Raises:
        MissingFileError: if a file is not there.
        CheckpointError: if export.json or model.onnx is damaged or belongs to another.
    """
    missing = [name for name in (INFO, MODEL) if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(
            f"{str(folder)!r} is no export: {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Name the folder that abhinaya export "
            "wrote."
        )
    where = str(folder / INFO)
    try:
        content = parse_json(read_text(folder / INFO), repr(where))
        found = content.pop("format")
        if found != _FORMAT:
            raise CheckpointError(
                f"{where!r} has the format {found!r}, this version reads {_FORMAT}. Export the run "
                "again."
            )
        lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        info = ExportInfo(**{**content, **lists})
        _ = info.emotions
    except (AttributeError, BadValueError, KeyError, TypeError) as err:
        if isinstance(err, CheckpointError):
            raise
        known = ", ".join(field.name for field in fields(ExportInfo))
        raise CheckpointError(
            f"{where!r} is damaged, expected JSON with {known}. Export the run again."
        ) from err
    if hash_file(folder / MODEL) != info.model_sha256:
        raise CheckpointError(
            f"{str(folder / MODEL)!r} is damaged or belongs to another export: its SHA-256 is not "
            f"the one in {INFO}. Copy the whole folder again, or export the run again."
        )
    return info


def start_session(model: Path, n_threads: int = 1) -> InferenceSession:
    """Load a model into onnxruntime, on the CPU.

    Args:
        model: the .onnx file.
        n_threads: threads of one operator.

    Raises:
        MissingPackageError: if onnxruntime is not installed.
        CheckpointError: if the file holds no model that it can run.
    """
    require_package("onnxruntime", "Running an exported model", "export")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3  # errors; each is raised as well
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # classes of its own, all of them plain exceptions
        raise CheckpointError(
            f"{str(model)!r} cannot be run: {str(err).splitlines()[0]} Copy it again, or export "
            "the run again."
        ) from err


def run_session(
    session: InferenceSession, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return logits, shape (B, K), of padded waveforms (B, S) and their lengths (B,)."""
    inputs: dict[str, Any] = {"waveforms": waveforms, "lengths": lengths}
    (logits,) = session.run(["logits"], inputs)
    return np.asarray(logits, dtype=np.float32)
