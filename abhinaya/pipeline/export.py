"""Export: a trained speech member becomes an ONNX file that runs without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.errors import BadValueError, MissingFileError
from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Report

if TYPE_CHECKING:
    from abhinaya.export.folder import Quantization

__all__ = ["run_export"]

# What a config may have otherwise than the checkpoint without being of another model.
_NOT_THE_MODEL = (
    "balance",
    "base",
    "cache",
    "data",
    "inference",
    "loss",
    "mixing",
    "name",
    "run_dir",
    "seed",
    "training",
)


@sole_outputs("out")
def run_export(
    source: str,
    out: Path,
    *,
    checkpoint: str | None = None,
    quantize: Quantization = "none",
    overrides: Sequence[str] = (),
) -> Report:
    """Write a checkpoint as ONNX, with all that running it takes.

    Args:
        source: run directory, or the config that it was trained with.
        out: folder to write.
        checkpoint: a folder, or the name of one in the run; its `best` by default.
        quantize: `none` or `int8`.
        overrides: `key=value` changes of the config.

    Raises:
        MissingFileError: if there is no such run or checkpoint.
        BadValueError: if the config is of another model than the checkpoint, or see
            `export_checkpoint`.
    """
    from abhinaya.export.export import export_checkpoint

    run = Path(source)
    if not run.is_dir():
        run = _run_of(source, overrides, checkpoint)
    done = export_checkpoint(
        _find_checkpoint(run, checkpoint), out, quantize=quantize, overrides=overrides
    )
    return Report(
        str(out),
        ["run", "member", "quantization", "MB", "classes", "difference from torch"],
        [
            [
                done.info.name,
                done.info.member,
                done.info.quantization,
                round(done.n_bytes / 1e6, 2),
                len(done.info.classes),
                f"{done.difference:.1e}",
            ]
        ],
        files=(out,),
        remark="The difference is the largest of a logit, as a share, in float32, on noise."
        + (" Score the table of the exported member: int8 rounds." if quantize == "int8" else ""),
    )


def _find_checkpoint(run: Path, name: str | None) -> Path:
    if name is None:
        return run / "best" if (run / "best").is_dir() else run
    for folder in (run / name, Path(name)):
        if folder.is_dir():
            return folder
    raise MissingFileError(
        f"There is no checkpoint {name!r}, neither as a folder nor in {str(run)!r}. Leave out "
        "--checkpoint for the best one."
    )


def _run_of(source: str, overrides: Sequence[str], checkpoint: str | None) -> Path:
    """Return the run directory of a config, which must be of the same model as its checkpoint."""
    from abhinaya.config import TrainedConfig, apply_overrides, check_config, load_yaml, merge
    from abhinaya.export.export import require_exportable
    from abhinaya.member_config import check_member_config, find_config_class
    from abhinaya.nn.checkpoint import read_info
    from abhinaya.resources import find_config

    file = find_config(source)
    content = apply_overrides(load_yaml(file), overrides)
    kind = find_config_class(content, str(file))
    require_exportable(content["member"])
    # An export needs no corpus.
    nowhere = {"data": {"manifest": "(not given)"}}
    config = check_member_config(merge(nowhere, content), str(file))
    assert isinstance(config, TrainedConfig)
    folder = _find_checkpoint(config.run_dir, checkpoint)
    about = read_info(folder)
    if about.config.get("member") != config.member:
        keys = ["member"]
    else:
        stored = check_config(about.config, kind, str(folder / "config.yaml"))
        keys = [
            key
            for key in kind.model_fields
            if key not in _NOT_THE_MODEL and getattr(stored, key) != getattr(config, key)
        ]
    if keys:
        raise BadValueError(
            f"{str(file)!r} and the checkpoint {str(folder)!r} differ in {', '.join(keys)}, so this"
            " config did not train it. Name the checkpoint's own run directory instead."
        )
    return config.run_dir
