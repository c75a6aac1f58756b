"""Columns of text: they lie in Arrow, not as a Python object per row, and read like a tuple."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Texts", "find_rows"]


class Texts(Sequence[Any]):
    """A column of U texts, or None, that nobody changes.

    It is equal to a tuple or list of the same texts. One text at a time is slow to get: loops over
    many rows go over `tolist()`, and what can be done to all at once takes `arrow`.

    Args:
        values: texts, any Arrow column of them (or a pandas one), or another `Texts`.
    """

    arrow: pa.LargeStringArray
    """The texts."""

    def __init__(self, values: Iterable[str | None]) -> None:
        column: Any = values
        if isinstance(values, Texts):
            column = values.arrow
        elif not isinstance(values, pa.Array | pa.ChunkedArray):
            is_array = hasattr(values, "dtype")  # of numpy or pandas
            column = values if is_array else list(values)
            column = pa.array(column, type=pa.large_string(), from_pandas=is_array)
        if column.type != pa.large_string():
            column = column.cast(pa.large_string())
        self.arrow = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Texts(self.arrow[index])
        return self.arrow[operator.index(index)].as_py()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return self.arrow is other.arrow or bool(self.arrow.equals(other.arrow))
        if isinstance(other, tuple | list):
            return len(self) == len(other) and self.tolist() == list(other)
        return NotImplemented

    def __radd__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*other, *self)

    def __repr__(self) -> str:
        more = f", ... {len(self) - 5} more" if len(self) > 5 else ""
        return f"Texts({', '.join(map(repr, self[:5]))}{more})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.tolist(), dtype=dtype)

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return self.arrow if type is None else self.arrow.cast(type)

    def tolist(self) -> list[Any]:
        """Return the texts as Python objects."""
        texts: list[Any] = self.arrow.to_numpy(zero_copy_only=False).tolist()
        return texts

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Texts:
        """Return the texts at `indices`, in that order."""
        return Texts(self.arrow.take(pa.array(np.asarray(indices, dtype=np.int64))))

    def replace(self, old: str, new: str | None) -> Texts:
        """Return the texts with another one in place of `old`."""
        with_new = pc.if_else(
            pc.equal(self.arrow, old), pa.scalar(new, pa.large_string()), self.arrow
        )
        return Texts(with_new)

    @cached_property
    def is_unique(self) -> bool:
        """Return whether no text stands there twice."""
        return len(pc.unique(self.arrow)) == len(self.arrow)

    def factorize(self) -> tuple[NDArray[np.int64], list[str | None]]:
        """Return the number of each text, shape (U,), and the different texts by number."""
        found = self.arrow.dictionary_encode(null_encoding="encode")
        return np.asarray(found.indices, dtype=np.int64), found.dictionary.to_pylist()

    def count_each(self) -> dict[str | None, int]:
        """Return how often each text is there, in order of appearance."""
        found = pc.value_counts(self.arrow)
        return dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))


def find_rows(texts: Sequence[str], among: Sequence[str]) -> NDArray[np.int64]:
    """Return where each text stands among others, shape (U,); -1 where it does not.

    Args:
        texts: U texts, none of them None.
        among: texts, each once.
    """
    ours, theirs = Texts(texts), Texts(among)
    if ours == theirs:
        return np.arange(len(ours))
    found = pc.index_in(ours.arrow, value_set=theirs.arrow)
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
