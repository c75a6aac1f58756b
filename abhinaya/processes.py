"""The processes of a launch: which one this is, what they share out, and where they meet."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from abhinaya.errors import list_some
from abhinaya.progress import progress
from abhinaya.stopping.neighbours import check_neighbours, watch_neighbours

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = [
    "asks_for",
    "gather",
    "is_main_process",
    "join_launch",
    "map_in_shares",
    "meet",
    "splits_weights",
]

_logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_FSDP, _DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"

_N_THREADS = 8

# Equal shares of work may end hours apart, where devices differ or one asks a slow server. Nobody
# waits for a process that has died: `stopping.neighbours`.
_TIMEOUT = timedelta(days=1)
_PATIENCE_S = 60.0

_meetings = itertools.count()


def is_main_process() -> bool:
    """Return True in the only process, or in the first one of a launch."""
    return os.environ.get("RANK", "0") == "0"


def asks_for(variable: str) -> bool:
    """Tell whether `accelerate launch` has switched something on, such as ACCELERATE_USE_FSDP."""
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")


def splits_weights() -> bool:
    """Tell whether this is a training whose launch splits the weights over its processes."""
    stage = os.environ.get(
        "ACCELERATE_DEEPSPEED_ZERO_STAGE"
    )  # without it, a file of DeepSpeed has it
    return asks_for(_FSDP) or (asks_for(_DEEPSPEED) and stage not in ("0", "1", "2"))


def join_launch() -> PartialState:
    """Return this process' place in the launch and its device; the first call starts them.

    In training the Trainer has started them already, with `training.ddp_timeout`.
    """
    import torch
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        # No training: rows are shared out, and each process holds all weights. transformers would
        # leave them empty in all but the first.
        for variable in filter(asks_for, (_FSDP, _DEEPSPEED)):
            os.environ[variable] = "false"
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_TIMEOUT)
    if state.num_processes > 1:
        _watch_once(state.process_index, state.num_processes)
    return state


@functools.cache
def _watch_once(rank: int, n_processes: int) -> None:
    from torch.distributed.distributed_c10d import _get_default_store

    watch_neighbours(_get_default_store(), rank, n_processes)


def meet() -> None:
    """Wait until every process of the launch has come here; after a minute, log who has not."""
    state = join_launch()
    if state.num_processes == 1:
        return
    from torch.distributed.distributed_c10d import _get_default_store

    store, number = _get_default_store(), next(_meetings)
    keys = [f"abhinaya/meeting-{number}/{rank}" for rank in range(state.num_processes)]
    store.set(keys[state.process_index], "here")
    tell_at = time.monotonic() + _PATIENCE_S
    while not store.check(keys):
        check_neighbours()
        time.sleep(0.02)
        if time.monotonic() > tell_at:
            absent = [rank for rank, key in enumerate(keys) if not store.check([key])]
            _logger.info("waiting for process %s of 0 to %d", list_some(absent), len(keys) - 1)
            tell_at = math.inf
    state.wait_for_everyone()


def gather(mine: _Item) -> list[_Item]:
    """Return what every process of a launch has, in their order.

    Args:
        mine: what this process has; it can be pickled, and its tensors are on the CPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return [mine]
    from accelerate.utils import gather_object

    join_launch()
    found: list[_Item] = gather_object([mine])
    return found


def map_in_shares(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    description: str | None = None,
) -> list[_Result]:
    """Call a function on every item, in threads: once in all processes of a launch together.

    Every process must call this with the same items; all get all results, in the items' order.

    Args:
        function: what it returns can be pickled; it should raise nothing.
        items: what it is called on.
        description: of the work, where its progress is to be shown.
    """
    rank, n_processes = 0, 1
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and items:
        state = join_launch()
        rank, n_processes = state.process_index, state.num_processes
    mine = items[rank::n_processes]
    shown = description is not None and rank == 0
    share: list[_Result] = []
    with (
        progress(description or "", len(mine), shown=shown) as advance,
        ThreadPoolExecutor(_N_THREADS) as pool,
    ):
        for result in pool.map(function, mine):
            share.append(result)
            advance(1)
    if n_processes == 1:
        return share
    shares = gather(share)
    return [shares[idx % n_processes][idx // n_processes] for idx in range(len(items))]
