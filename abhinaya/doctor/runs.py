"""What `abhinaya doctor` finds in a run directory, or the folder of a chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abhinaya.config import load_yaml
from abhinaya.doctor.findings import Findings, format_bytes
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.files import read_json_object
from abhinaya.weight_places import locate_weights

__all__ = ["check_run", "read_run_config"]


def read_run_config(run_dir: Path) -> tuple[dict[str, Any], Path]:
    """Return the config of a run, its weights looked up as `predict` does, and its file.

    Args:
        run_dir: run directory, checkpoint or export.

    Raises:
        MissingFileError: if there is none.
    """
    for file in (run_dir / "best" / "config.yaml", run_dir / "config.yaml"):
        content = load_yaml(file) if file.is_file() else {}
        if isinstance(content.get("member"), str):
            facts = file.with_name("facts.json")
            places = read_json_object(facts).get("weights", {}) if facts.is_file() else {}
            return locate_weights(content, file.parent, places), file
    raise MissingFileError(
        f"{str(run_dir)!r} is neither a run directory, which has a config.yaml with a member, nor "
        "the folder of a chain that abhinaya run has begun. Name a folder that abhinaya wrote, or "
        "a YAML file."
    )


def check_run(run_dir: Path) -> Findings:
    """Look whether a run is finished, and whether all of its own weights are there."""
    findings = Findings()
    best = run_dir / "best" if (run_dir / "best").is_dir() else run_dir
    if not (run_dir / "digest.json").is_file() and not (best / "classes.json").is_file():
        return findings  # of a member with nothing to train

    def look() -> str:
        from safetensors import SafetensorError, safe_open

        from abhinaya.nn.checkpoint import WEIGHTS, read_info

        info, file = read_info(best), best / WEIGHTS
        try:
            with safe_open(file, "numpy") as stored:
                n_tensors = len(stored.keys())
        except SafetensorError as err:
            raise CheckpointError(f"{str(file)!r} is damaged ({err}). Copy the run again.") from err
        macro_f1 = info.metrics.get("macro_f1")
        known = "" if macro_f1 is None else f"; macro-F1 {macro_f1:.4f}"
        return (
            f"{n_tensors} trained tensors, {format_bytes(file.stat().st_size)}{known}; classes "
            f"{' '.join(info.emotions.codes)}"
        )

    details = findings.attempt("run", best, look)
    if details is not None:
        findings.add("run", best, "ok", details)
    return findings
