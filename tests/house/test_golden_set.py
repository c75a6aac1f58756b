"""Golden numbers can be exchanged as a whole: one helper knows where they are."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

from source_tree import ROOT, parse, python_files, relative

HELPER = "tests/helpers/golden_set.py"


def names_the_folder(node: ast.AST) -> bool:
    """Tell `... / "golden"` and a text that begins like a path into it."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        node = node.right
        return isinstance(node, ast.Constant) and node.value == "golden"
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("golden/", "tests/golden/"))
    )


def test_no_test_names_the_folder_of_golden_numbers_but_the_helper():
    found = {
        f"{relative(file)}:{getattr(node, 'lineno', 0)}"
        for file in python_files("tests")
        for node in ast.walk(parse(file))
        if file.name not in ("golden_set.py", "test_golden_set.py") and names_the_folder(node)
    }
    assert not found, f"{sorted(found)}: take the folder from {HELPER}."
    assert any(names_the_folder(node) for node in ast.walk(parse(ROOT / HELPER)))


def test_another_set_is_read_where_the_variable_names_one(tmp_path):
    """An empty folder is asked for, so that nothing of the public set can have been read."""
    environment = os.environ | {"ABHINAYA_GOLDEN": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import golden_set"],
        **{"cwd": ROOT / "tests" / "helpers", "env": environment},
        **{"capture_output": True, "text": True, "check": False},
    )
    assert str(tmp_path / "config.json") in done.stderr
