"""YAML that has the form, and would break whoever reads, prints or stores it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abhinaya.config import apply_overrides, load_yaml
from abhinaya.errors import ProblemsError

BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(30))
UNFIT = {
    "a: &a [*a]": "it is nested more than 50 levels deep, or contains itself",
    "a: &a {b: *a}": "or contains itself",
    f"a: {'[' * 5_000}{']' * 5_000}": "nested more than 50 levels deep",
    "\n".join(f"{' ' * n}a:" for n in range(2_000)): "nested more than 50 levels deep",
    BOMB: "it holds more than 100,000 values, aliases counted",
    "a: 2026-02-31": "it is not YAML: day is out of range for month",
    "a: 2026-02-01": "it holds 2026-02-01, neither text nor number; put it into quotes",
    f"a: {'9' * 5_000}": "it is not YAML: Exceeds the limit",
    f"a: 0x{'f' * 5_000}": "it holds an integer of 20000 bits",
    "a: !!bool maybe": "it is not YAML: 'maybe' does not fit its tag",
    "a: !!binary aGk=": "it holds b'hi', neither text nor number",
    'a: "\\ud800"': r"it holds characters that no text has: '\ud800'",
    'a: "\\0"': r"it holds characters that no text has: '\x00'",
    "a: b: c": "it is not YAML: mapping values are not allowed here (line 1)",
    "a: \0": "it is not YAML: unacceptable character #x0000: special characters are not allowed",
}
"""The text, and what is said of it."""


@pytest.mark.parametrize(("text", "message"), UNFIT.items(), ids=range(len(UNFIT)))
def test_load_yaml_unfit_value_raises_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ProblemsError) as caught:
        load_yaml(file)
    assert message in str(caught.value)
    assert "<unicode string>" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", [text for text in UNFIT if not re.search("[\\n\\0\\[]", text)])
def test_apply_overrides_unfit_value_raises_in_one_line(text: str) -> None:
    with pytest.raises(ProblemsError, match="in the command line: ") as caught:
        apply_overrides({}, [f"x={{{text}}}"])
    assert len(str(caught.value)) < 600


def test_apply_overrides_without_end_raises() -> None:
    with pytest.raises(ProblemsError, match=r"'a\.a\..*\(2,002 characters\) is not of the form"):
        apply_overrides({}, [".".join("a" * 1_000) + "="])
