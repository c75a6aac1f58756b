"""Train: one member learns, or goes on where it was killed."""

from __future__ import annotations

from pathlib import Path

from abhinaya.config import MemberConfig
from abhinaya.pipeline.report import Report

__all__ = ["report_run", "run_train"]


def run_train(config: MemberConfig) -> Path:
    """Train a member and return its run directory; every process of a launch calls this."""
    from abhinaya.data.manifest import read_manifest
    from abhinaya.registry import load_member

    manifest = read_manifest(config.data.manifest, audio_root=config.data.audio_root)
    return load_member(config.member).train(config, manifest)


def report_run(name: str, run_dir: Path) -> Report:
    """Return how good a trained run is."""
    from abhinaya.nn.checkpoint import read_info

    best = run_dir / "best"
    metrics = read_info(best).metrics
    return Report(
        str(best),
        ["run", "macro-F1", "best step", "steps"],
        [[name, metrics["macro_f1"], metrics["step"], metrics["n_steps"]]],
        files=(best,),
    )
