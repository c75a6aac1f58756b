"""The test files that take longest, the longest first."""

__all__ = ["LONGEST"]

LONGEST = (
    "tests/demo/test_demo_full.py",
    "tests/test_damaged_inputs.py",
    "tests/pipeline/test_launched_chain.py",
    "tests/training/test_train_fsdp.py",
    "tests/training/test_train_processes.py",
    "tests/stopping/test_stopping_neighbours.py",
    "tests/pipeline/test_pipeline_kill.py",
    "tests/demo/test_demo_main.py",
)
