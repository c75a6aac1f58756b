"""What a clip costs before a model hears it, as `benchmarks/input_cost.py` measures it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "input_cost.py"


@pytest.mark.slow
def test_features_cost_less_than_the_former_way() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", "5"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^read .*: \d", done.stdout, flags=re.MULTILINE)) == 2
    for kind in ("whisper-encoder", "salmonn"):
        found = re.search(rf"^{kind}: .* former way (\S+) / ", done.stdout, flags=re.MULTILINE)
        assert found, done.stdout
        assert float(found[1]) < 0.6  # .18 to .25 on quiet cores
    assert "wavlm: features" in done.stdout
    assert "loader of 2 workers over a step" in done.stdout
