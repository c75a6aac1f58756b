"""`abhinaya` as in a launch with FSDP2 over GPUs, but over gloo on the CPU.

    accelerate launch --config_file ... fsdp_on_cpu.py train CONFIG [then train CONFIG ...]

One thing is stood in: accelerate takes its FSDP branch on accelerators only, so here it is told
that the processes have some. What follows is what runs there: accelerate's plugin from the
variables of the launch, its preparation of model and optimizer, and torch's own `fully_shard`.
What was split is told: "split: " and the classes of the modules.
"""

import sys
from typing import Any

from accelerate import accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from abhinaya.cli import app

_start = AcceleratorState.__init__
_prepare = accelerator.fsdp2_prepare_model


def _start_with_fsdp(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
    if kwargs.get("fsdp_plugin") is not None:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    _start(self, *args, **kwargs)


def _prepare_and_tell(*args: Any) -> Any:
    model = _prepare(*args)
    split = {type(m).__name__ for m in model.modules() if isinstance(m, FSDPModule)}
    print("split:", *sorted(split), file=sys.stderr)
    return model


if __name__ == "__main__":
    AcceleratorState.__init__ = _start_with_fsdp  # type: ignore[method-assign]
    accelerator.fsdp2_prepare_model = _prepare_and_tell
    for command in " ".join(sys.argv[1:]).split(" then "):
        app(command.split(), standalone_mode=False)
