"""Everything that can happen to a file on its way, as bytes to put in its place."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

__all__ = ["CODE_RAN", "damages"]

CODE_RAN = "code-ran"
"""File that the code in a pickle makes, should anybody run it."""

_NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])")
_WRONG = (None, True, -1, 10**30, float("nan"), "x", "", [], [1], {}, {"a": [{}]}, 1e300)


def damages(path: Path, n_flips: int = 2, n_wrong: int = 4) -> Iterator[tuple[str, bytes]]:
    """Name and content of each damage of a file; the same ones in every run.

    Args:
        path: the file, still whole.
        n_flips: how many times to overwrite a few random bytes.
        n_wrong: how many values or columns to replace by others of a wrong type.
    """
    content = path.read_bytes()
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    yield "emptied", b""
    yield "half of it", content[: len(content) // 2]
    yield "random bytes", rng.bytes(300)
    yield "UTF-16", content[:100_000].decode("latin-1").encode("utf-16")
    yield "deep lists", b"[" * 100_000
    yield "deep keys", b'{"a": ' * 20_000 + b"1" + b"}" * 20_000
    yield "another file", b"RIFF$\x00\x00\x00WAVEfmt \x10\x00\x00\x00" + content[:100]
    yield "a list", b"[1, null]"
    yield "not a word", b"\x00\n\x00,\x00\n"
    if _NUMBER.search(content) and len(content) < 1_000_000:
        yield "NaN", _NUMBER.sub(b"NaN", content)
        yield "huge numbers", _NUMBER.sub(b"9" * 400, content)
    for number in range(n_flips):
        changed = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 8)) if content else ():
            changed[place] = rng.integers(256)
        yield f"flips {number}", bytes(changed)
    yield from _wrong_values(path, rng, n_wrong)


def _wrong_values(
    path: Path, rng: np.random.Generator, n_wrong: int
) -> Iterator[tuple[str, bytes]]:
    if path.suffix in (".json", ".yaml"):
        for _ in range(n_wrong):
            yaml: Any = YAML(typ="safe", pure=True)
            value = yaml.load(path.read_text())
            name = _replace(value, _WRONG[rng.integers(len(_WRONG))], rng)
            if path.suffix == ".json":
                yield name, json.dumps(value).encode()
            else:
                out = io.BytesIO()
                yaml.dump(value, out)
                yield name, out.getvalue()
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        for idx in rng.permutation(table.num_columns)[:n_wrong]:
            column = table.column_names[idx]
            yield f"without {column}", _parquet(table.drop_columns([column]))
            for wrong in ([[1.5]] * len(table), [None] * len(table), [7] * len(table)):
                yield (
                    f"{column} of {wrong[0]}",
                    _parquet(table.set_column(int(idx), column, pa.array(wrong))),
                )
        yield "no rows", _parquet(table.slice(0, 0))
        yield "rows twice", _parquet(pa.concat_tables([table, table]))
        yield "no metadata", _parquet(table.replace_schema_metadata(None))
    elif path.suffix in (".bin", ".pt", ".pth"):
        for value in (_Code(), "x", {}, {"a": [1]}):
            yield f"pickled {type(value).__name__} {value}", _pickle(value)


class _Code:
    def __reduce__(self) -> Any:
        return open, (CODE_RAN, "w")

    def __str__(self) -> str:
        return "that writes a file"


def _pickle(value: Any) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def _replace(value: Any, wrong: Any, rng: np.random.Generator) -> str:
    """Put a wrong value somewhere into nested dictionaries and lists; say where."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(len(keys))]
    if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.7:
        return f"{key}.{_replace(value[key], wrong, rng)}"
    value[key] = wrong
    return f"{key}={wrong!r}"


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
