from __future__ import annotations

import numba
import pytest

from ensembling.ablation.compiled import compiled, run_in_threads


@pytest.mark.parametrize(("n_items", "n_blocks"), [(10, 3), (2, 5), (1, 1), (0, 4)])
def test_blocks_cover_every_item_once(n_items, n_blocks):
    seen = []
    run_in_threads(lambda first, end: seen.extend(range(first, end)), n_items, n_blocks)
    assert sorted(seen) == list(range(n_items))


def test_error_in_a_thread_reaches_the_caller():
    def fail(first, end):
        raise ValueError(f"{first} to {end}")

    with pytest.raises(ValueError, match="0 to 2"):
        run_in_threads(fail, 4, 2)


def test_compiled_function_works_where_nothing_can_be_stored(monkeypatch):
    original = numba.njit

    def refuse_to_store(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return original(*args, **options)

    monkeypatch.setattr(numba, "njit", refuse_to_store)

    def double(value):
        return 2 * value

    ours = compiled(double)
    assert ours is not double
    assert ours(21) == 42
