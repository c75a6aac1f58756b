"""What a chain leaves behind in `out`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["results"]


def results() -> dict[str, bytes]:
    """Return the bytes of everything that others may build on, by file."""
    patterns = (
        "corpus/manifest.parquet",
        "runs/*/best/*",
        "tables/*/*",
        "scores-*.json",
        "submission.csv",
    )
    files = [file for pattern in patterns for file in Path("out").glob(pattern) if file.is_file()]
    return {str(file): file.read_bytes() for file in sorted(files)}
