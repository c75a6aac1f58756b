"""`abhinaya` as in a launch with DeepSpeed over GPUs, but over gloo on the CPU.

    DS_ACCELERATOR=cpu accelerate launch --config_file ... deepspeed_on_cpu.py train CONFIG

Several commands are divided by the word `then`. Nothing is stood in; only DeepSpeed's shared memory
of one machine's processes, which needs a compiler, is off.
"""

import sys

if __name__ == "__main__":
    import deepspeed.ops

    from abhinaya.cli import app

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for command in " ".join(sys.argv[1:]).split(" then "):
        app(command.split(), standalone_mode=False)
