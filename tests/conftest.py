"""What all tests share: one thread per process, outside material, and a count of parity tests."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from longest_files import LONGEST

# Before torch loads: tiny tensors are faster on one thread, and waiting threads must not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test may download anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:  # a plugin loaded it before the variables above were set
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that the processes of `make test` end together."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_collection_finish() -> None:
    """Keep what the imports made out of the collector's sight.

    The Trainer collects garbage at the start and the end of each training; with all libraries
    loaded that would take longer than a tiny training itself.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Do the same behind tests that took long: some libraries are imported late."""
    began = time.perf_counter()
    result = yield
    if time.perf_counter() - began > 1:
        pytest_collection_finish()
    return result


def pytest_unconfigure() -> None:
    gc.unfreeze()  # at exit some libraries report what is left as leaks


@pytest.fixture(scope="session")
def material() -> Path:
    """Folder of real audio and weights that are not part of the repository."""
    folder = Path(
        os.environ.get("ABHINAYA_MATERIAL", Path(__file__).resolve().parents[2] / "shared")
    )
    if not folder.is_dir():
        pytest.skip(
            f"real audio and weights are not at {str(folder)!r}; "
            "set ABHINAYA_MATERIAL to the folder that has them"
        )
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many parity tests ran: a suite that silently skipped them all proves little."""

    def count(*outcomes: str) -> int:
        return sum(
            "parity" in report.keywords
            for outcome in outcomes
            for report in terminalreporter.stats.get(outcome, [])
            if isinstance(report, pytest.TestReport)
        )

    n_ran, n_skipped = count("passed", "failed"), count("skipped")
    if n_ran or n_skipped:
        terminalreporter.write_line(
            f"parity with published numbers: {n_ran} ran, {n_skipped} skipped"
        )
