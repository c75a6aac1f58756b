"""The rules of the house, checked on the source itself. Each failure says how to repair it."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from longest_files import LONGEST
from source_tree import PACKAGES, ROOT, parse, python_files, relative

MAX_LINES = 400


def test_no_file_is_too_long():
    files = python_files(*PACKAGES, "tests", "benchmarks")
    lengths = {relative(file): len(file.read_text("utf-8").splitlines()) for file in files}
    long = {file: n_lines for file, n_lines in lengths.items() if n_lines > MAX_LINES}
    assert not long, f"{long} lines, expected at most {MAX_LINES}: split by purpose."
    assert len(files) >= 80


def is_public_module(file: Path) -> bool:
    return not file.stem.startswith("_") or file.stem == "__init__"


def all_of(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))
    return None


def test_public_modules_have_a_sorted_all_of_names_they_define():
    wrong, n_names = [], 0
    for file in python_files(*PACKAGES):
        tree = parse(file)
        if not is_public_module(file) or len(tree.body) <= 1:  # only a docstring
            continue
        listed = all_of(tree)
        if listed is None:
            wrong.append(f"{relative(file)} has no __all__")
            continue
        n_names += len(listed)
        # The order of ruff's RUF022: constants, then classes, then the rest.
        in_order = sorted(
            listed, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name)
        )
        if listed != in_order:
            wrong.append(f"{relative(file)}: __all__ is not sorted")
        missing = set(listed) - defined_names(tree)
        wrong += [f"{relative(file)}: __all__ names {name}, not defined" for name in missing]
    assert not wrong, f"{wrong}: list the public names, constants first; ruff --fix sorts them."
    assert n_names >= 80


def defined_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_every_public_name_has_a_docstring():
    wrong, n_seen = [], 0
    for file in python_files(*PACKAGES):
        tree = parse(file)
        if ast.get_docstring(tree) is None and is_public_module(file):
            wrong.append(f"{relative(file)}: the module")
        documented = [(file.stem, tree.body)]
        for owner, body in documented:
            for node in body:
                if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                    continue
                if node.name.startswith("_"):
                    continue
                n_seen += 1
                if ast.get_docstring(node) is None and not is_exempt(node):
                    wrong.append(f"{relative(file)}: {owner}.{node.name}")
                if isinstance(node, ast.ClassDef):
                    documented.append((node.name, node.body))
    assert not wrong, f"{wrong}: say in one line what you get."
    assert n_seen >= 150


def is_exempt(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Overloads and overrides are described where they are first declared."""
    return any(ast.unparse(mark) in ("overload", "override") for mark in node.decorator_list)


def test_every_shipped_yaml_is_a_mapping():
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert isinstance(content, dict), f"{relative(file)} has no keys: write KEY: VALUE lines."
    assert len(files) >= 1


def text_files() -> list[Path]:
    """Files that belong to the repository, without stored numbers."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("this is not a git checkout, so it is unknown which files belong to it")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    return [
        file
        for file in files
        if file.is_file() and "golden" not in file.parts and b"\0" not in file.read_bytes()[:8192]
    ]


def test_no_text_holds_a_path_of_somebodys_machine():
    # Put together here, so that this file does not find itself.
    roots = "|".join(["home/[a-z]", "Users/[A-Za-z]", "root/", "work/", "mnt/", "tmp/[a-z]"])
    machine_path = re.compile(rf"(?<![\w.}}/])/(?:{roots})")
    files = text_files()
    wrong = [
        f"{relative(file)}:{number}: {line.strip()[:60]}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if machine_path.search(line)
    ]
    assert not wrong, f"{wrong}: use a relative path, an argument or a fixture instead."
    assert len(files) >= 80


def test_every_package_is_listed_for_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {relative(file.parent).replace("/", ".") for file in python_files(*PACKAGES)}
    found |= {"configs", "prompts"}
    assert listed == found, (
        f"packages in pyproject.toml lacks {sorted(found - listed)} and has "
        f"{sorted(listed - found)} too much: an installed wheel would miss files."
    )
    assert len(found) >= 10


def test_files_that_run_first_are_there():
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
