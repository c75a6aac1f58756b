"""abhinaya: from an emotional-speech corpus on disk to a validated challenge submission.

In Python: `abhinaya.load(run).predict("x.wav")`, `abhinaya.score("a.parquet", "manifest.parquet")`;
see docs/python.md. Each name is imported when it is first used, so that importing stays light.
"""

from typing import Any

__all__ = ["__version__"]

__version__ = "0.1.0"

_HOMES = {
    "PredictionTable": "abhinaya.data.predictions",
    "Run": "abhinaya.api.runs",
    "compare": "abhinaya.api.tables",
    "load": "abhinaya.api.runs",
    "load_predictions": "abhinaya.api.tables",
    "read_manifest": "abhinaya.data.manifest",
    "read_predictions": "abhinaya.api.tables",
    "score": "abhinaya.api.tables",
    "smooth": "abhinaya.api.tables",
    "vote": "abhinaya.api.tables",
}
# __init__.pyi tells type checkers and editors the same.

__all__ += [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
