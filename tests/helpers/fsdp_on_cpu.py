"""`abhinaya` as in a launch with FSDP2 over GPUs, but over gloo on the CPU.

    torchrun --nproc_per_node=2 fsdp_on_cpu.py train CONFIG

One thing is stood in: accelerate takes its FSDP branch on accelerators only, so here it is told
that the processes have some. What follows is what runs there: accelerate's plugin from the
variables of the launch, its preparation of model and optimizer, and torch's own `fully_shard`.
"""

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from abhinaya.cli import main

_start = AcceleratorState.__init__


def _start_with_fsdp(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
    if kwargs.get("fsdp_plugin") is not None:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    _start(self, *args, **kwargs)


AcceleratorState.__init__ = _start_with_fsdp  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
