"""The floor plan: which folder may import which. Each failure says how to repair it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from source_tree import (
    PACKAGES,
    ROOT,
    imported_names,
    imports_at_top,
    module_name,
    parse,
    python_files,
    relative,
    tops,
)

FLOORS = {
    # The ground floor.
    "abhinaya": 0,  # the package itself: its version
    "abhinaya.errors": 0,
    "abhinaya.files": 0,
    "abhinaya.stopping": 0,
    "abhinaya.processes": 0,
    "abhinaya.weight_places": 0,
    "abhinaya.progress": 0,
    "abhinaya.resources": 0,
    "abhinaya.config": 0,
    # What lies on disk.
    "abhinaya.data": 1,
    "abhinaya.member": 2,
    "abhinaya.registry": 2,
    "abhinaya.member_config": 2,
    "abhinaya.corpora": 2,
    "abhinaya.evaluation": 2,
    "abhinaya.nn": 2,
    # What is done with it.
    "abhinaya.doctor": 3,
    "abhinaya.loading": 3,
    "abhinaya.report": 3,
    "abhinaya.inference": 4,
    "abhinaya.prompting": 4,
    "abhinaya.asr": 5,
    "abhinaya.export": 5,
    "abhinaya.probing": 5,
    "abhinaya.speakers": 5,
    "abhinaya.training": 5,
    # What uses all of it.
    "members": 6,
    "ensembling": 6,
    "abhinaya.pipeline": 7,
    "abhinaya.api": 8,
    "abhinaya.app": 8,
    "abhinaya.cli": 9,
    "abhinaya.demo": 10,
    "abhinaya.__main__": 10,
}
"""Folder, or loose module of `abhinaya/`, -> floor. No import climbs, the lazy ones included."""

ENSEMBLING_FLOORS = {
    "ensembling": 0,
    "ensembling.aligned": 1,
    "ensembling.voting": 2,
    "ensembling.ablation": 3,
    "ensembling.learned": 4,
    "ensembling.speakers": 3,
}
"""The same within `ensembling/`."""

MAX_LOOSE_MODULES = 12
MAX_FILES = 16

HEAVY = {"torch", "transformers", "peft", "accelerate", "whisper", "bitsandbytes", "vllm"}
"""Top-level modules that take seconds to import."""

MAY_IMPORT_HEAVY = re.compile(
    r"abhinaya/(asr|export|inference|loading|nn|probing|speakers|training)/.*"
    r"|abhinaya/doctor/trace\.py"
    r"|members/[a-z0-9_]+/(model|member)\.py"
    r"|members/gen_ser/(estimator|transport)\.py"
    r"|members/salmonn/(beats/[a-z]+|encoders|qformer|sequence)\.py"
    r"|members/fusion/(fuse|text)\.py"
)
"""Files that may import them at their top."""

NOT_AT_REST = {"torch", "transformers", "pandas", "pyarrow", "sklearn", "scipy", "numba"}
"""What importing the packages must not load."""


def floor_of(name: str, floors: dict[str, int]) -> tuple[str, int] | None:
    """Return the folder of a module or of a name in it, and its floor."""
    while name:
        if name in floors:
            return name, floors[name]
        name = name.rpartition(".")[0]
    return None


def climbing(files: list[Path], floors: dict[str, int]) -> tuple[list[str], Counter[str]]:
    """Return the imports to a higher floor, and how many files each folder has."""
    wrong, seen = [], Counter[str]()
    for file in files:
        place = floor_of(module_name(file), floors)
        assert place is not None, f"{relative(file)}: its folder has no floor; give it one."
        folder, floor = place
        seen[folder] += 1
        for name in sorted(imported_names(parse(file))):
            target = floor_of(name, floors)
            if target is not None and target[1] > floor:
                wrong.append(f"{relative(file)} (floor {floor}) imports {name} ({target[1]})")
    return wrong, seen


def test_no_import_climbs_to_a_higher_floor():
    files = python_files(*PACKAGES)
    wrong, seen = climbing(files, FLOORS)
    assert not wrong, f"{wrong}: move what both need down, or the caller up."
    assert set(seen) == set(FLOORS), f"no file is left in {set(FLOORS) - set(seen)}; remove it."
    # Only the package itself may be placed by the entry `abhinaya`: every folder has its own.
    assert seen["abhinaya"] == 1, "a folder of abhinaya/ has no floor: give it one in FLOORS."
    assert len(files) >= 190


def test_no_import_within_ensembling_climbs():
    files = python_files("ensembling")
    wrong, seen = climbing(files, ENSEMBLING_FLOORS)
    assert not wrong, f"{wrong}: move what both need down, or the caller up."
    assert set(seen) == set(ENSEMBLING_FLOORS)
    assert len(files) >= 30


def test_folders_of_one_floor_do_not_import_each_other():
    """Neighbours that need each other are one folder, or one of them belongs a floor higher."""
    wrong, n_imports = [], 0
    for file in python_files(*PACKAGES):
        place = floor_of(module_name(file), FLOORS)
        assert place is not None
        folder, floor = place
        for name in sorted(imported_names(parse(file))):
            target = floor_of(name, FLOORS)
            if target is None:
                continue
            n_imports += 1
            pair = (folder, target[0])
            if target[1] == floor > 0 and target[0] != folder and pair not in NEIGHBOURS:
                wrong.append(f"{relative(file)} imports {name}")
    assert not wrong, f"{wrong}: give one of the two folders a floor of its own."
    assert n_imports >= 800


NEIGHBOURS = {
    ("abhinaya.member_config", "abhinaya.member"),
    ("abhinaya.member_config", "abhinaya.registry"),
    ("abhinaya.nn", "abhinaya.member"),
    ("abhinaya.registry", "abhinaya.member"),
}
"""Loose modules that build on each other: the contract, who keeps it, and how to find them."""


def test_every_pair_of_neighbours_is_needed():
    needed = set()
    for file in python_files(*PACKAGES):
        place = floor_of(module_name(file), FLOORS)
        assert place is not None
        for name in imported_names(parse(file)):
            target = floor_of(name, FLOORS)
            if target is not None:
                needed.add((place[0], target[0]))
    assert needed >= NEIGHBOURS, f"{NEIGHBOURS - needed} are not needed: remove them."


def test_members_do_not_import_each_other_nor_rules():
    wrong, kinds = [], set()
    for file in python_files("members"):
        kind = ".".join(module_name(file).split(".")[:2])
        kinds.add(kind)
        wrong += [
            f"{relative(file)} imports {name}"
            for name in sorted(imported_names(parse(file)))
            if tops({name}) & {"members", "ensembling"} and not name.startswith(f"{kind}.")
        ]
    assert not wrong, (
        f"{wrong}: members and rules pass prediction tables; what two members need goes into "
        "abhinaya/."
    )
    assert len(kinds) >= 6


def test_only_the_top_floors_import_ensembling_and_nobody_imports_a_member():
    """Members are heavy and may come from outside: the registry finds them by name."""
    wrong, users = [], Counter[str]()
    for file in python_files("abhinaya"):
        top = {name for name in imports_at_top(parse(file)) if tops({name}) & {"ensembling"}}
        wrong += [f"{relative(file)} imports {name} at its top" for name in sorted(top)]
        for name in sorted(imported_names(parse(file))):
            if tops({name}) & {"members"}:
                wrong.append(f"{relative(file)} imports {name}")
            if tops({name}) & {"ensembling"}:
                users[relative(file).split("/")[1]] += 1
    wrong += [
        f"abhinaya/{folder} imports ensembling"
        for folder in set(users) - {"app", "cli", "pipeline"}
    ]
    assert not wrong, (
        f"{wrong}: app, cli and pipeline import ensembling inside functions; members are found "
        "through abhinaya.registry."
    )
    # The page votes anew on a recording, and on ensembles that somebody chooses.
    assert set(users) == {"app", "cli", "pipeline"}
    assert sum(users.values()) >= 10


def test_ensembling_needs_data_and_evaluation_only():
    allowed = {folder for folder, floor in FLOORS.items() if floor == 0 and folder != "abhinaya"}
    allowed |= {"abhinaya.data", "abhinaya.evaluation", "abhinaya.__version__", "ensembling"}
    wrong, n_imports = [], 0
    for file in python_files("ensembling"):
        for name in sorted(imported_names(parse(file))):
            n_imports += 1
            is_ours = bool(tops({name}) & {*PACKAGES})
            if is_ours and not any(f"{name}.".startswith(f"{folder}.") for folder in allowed):
                wrong.append(f"{relative(file)} imports {name}")
            elif tops({name}) & HEAVY:
                wrong.append(f"{relative(file)} imports {name}")
    assert not wrong, f"{wrong}: fusion works on prediction tables, without torch or members."
    assert n_imports >= 150


def test_no_folder_is_crowded():
    folders = Counter(file.parent for file in python_files(*PACKAGES))
    crowded = {relative(folder): n for folder, n in folders.items() if n > MAX_FILES}
    assert not crowded, f"{crowded} files, expected at most {MAX_FILES}: make a folder per subject."
    loose = {package: folders[ROOT / package] for package in PACKAGES}
    assert max(loose.values()) <= MAX_LOOSE_MODULES, f"{loose}: find each module its folder."
    assert len(folders) >= 24


def test_heavy_libraries_are_imported_at_the_top_of_few_files_only():
    wrong, n_allowed = [], 0
    files = python_files(*PACKAGES)
    for file in files:
        heavy = tops(imports_at_top(parse(file))) & HEAVY
        if MAY_IMPORT_HEAVY.fullmatch(relative(file)):
            n_allowed += bool(heavy)
        elif heavy:
            wrong.append(f"{relative(file)}: {', '.join(sorted(heavy))}")
    assert not wrong, f"{wrong}: import these inside the function that needs them."
    assert n_allowed >= 20
    assert len(files) - n_allowed >= 100


@pytest.mark.parametrize(
    "command",
    [
        "import abhinaya, members, ensembling, abhinaya.cli",
        "import abhinaya.cli as c; c.main(['-h'])",
    ],
    ids=["import", "help"],
)
def test_packages_are_light_at_rest(command):
    report = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", report + command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.partition("LOADED ")[2].split())
    assert {"abhinaya.errors", "typer"} <= loaded
    found = sorted(loaded & NOT_AT_REST)
    assert not found, (
        f"{command!r} loads {', '.join(found)}: import inside the function that needs it "
        "(python -X importtime shows who does)."
    )
