from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from abhinaya.errors import MissingPackageError
from abhinaya.speaker_curve import ESTIMATED, draw_curve, write_curve


class Point(NamedTuple):
    kind: str
    share: float
    variant: str
    macro_f1: float


POINTS = [
    *(Point("merged", share, "none", 0.5) for share in (0.0, 0.5)),
    *(Point("merged", share, "prior", 0.6 - share / 5) for share in (0.0, 0.5)),
    *(Point("split", share, "none", 0.5) for share in (0.0, 0.5)),
    *(Point("split", share, "prior", 0.6) for share in (0.0, 0.5)),
    *(Point(ESTIMATED, 0.0, variant, 0.55) for variant in ("none", "prior")),
]


def test_write_curve_has_a_row_per_point_and_no_share_for_estimated_speakers(tmp_path):
    write_curve(POINTS, tmp_path / "curve.csv")
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert lines[:3] == [
        "kind,share,variant,macro_f1",
        "merged,0.0,none,0.5",
        "merged,0.5,none,0.5",
    ]
    assert lines[4] == "merged,0.5,prior,0.5"
    assert lines[-1] == "estimated,,prior,0.55"
    assert len(lines) == 1 + len(POINTS)


def test_draw_curve_writes_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    draw_curve(POINTS, tmp_path / "curve.png")
    content = (tmp_path / "curve.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5_000


def test_draw_curve_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"package matplotlib.*'abhinaya\[plot\]'"):
        draw_curve(POINTS, tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()
