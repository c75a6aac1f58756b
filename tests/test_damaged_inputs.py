"""Every command with every kind of file that it reads, damaged: a line of ours, and nothing half.

A new command, or a new kind of file of one, gets a line in `tests/helpers/damage_cases.py`.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from damage_cases import CASES, EXEMPT, Case
from damages import CODE_RAN, damages
from workplace import write_corpora, write_models, write_tables

from abhinaya.cli import app, main
from abhinaya.data.manifest import read_manifest
from abhinaya.nn.checkpoint import read_info


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    write_tables(folder)
    write_corpora(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "ledger").mkdir()
        for line in (
            "fit weights p.parquet q.parquet --manifest corpus/manifest.parquet --folds 2 "
            "--resamples 10 --out recipe.json",
            "submit q.parquet --names names.txt --out ledger/submitted.csv",
        ):
            assert run(line) == 0
    return folder


@pytest.fixture(scope="module")
def models(tables: Path) -> Path:
    write_models(tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tables)
        for line in (
            "train wavlm.yaml run_dir=run",
            "train wavlm.yaml run_dir=run2 seed=1",
            "speakers corpus/manifest.parquet --replace --model voices --n-speakers 2 "
            "--embeddings voices.npz --out out.parquet",
            "predict run --manifest corpus/manifest.parquet --select development "
            "--out made.parquet",
            "export run --out exported",
            "predict chat.yaml --manifest corpus/manifest.parquet --select development "
            "--out said.parquet",
            "run chain.yaml",
        ):
            assert run(line) == 0
    shutil.copytree(tables / "out", tables / "ran")
    shutil.copytree(tables / "run", tables / "half")
    shutil.rmtree(tables / "half/best")
    shutil.copytree(tables / "half", tables / "scaled")
    (tables / "scaled/checkpoint-2/scaler.pt").touch()
    return tables


def run(line: str) -> int:
    """Run a command in this process; what is no error of ours comes out."""
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    return int(caught.value.code or 0)


@dataclass
class Guard:
    """Runs the damaged command lines of one case."""

    folder: Path
    capsys: Any
    n_inputs: int = 0

    def check(self, case: Case, share: int) -> list[str]:
        """What went wrong, one line for each damaged file; of so many damages one is tried."""
        faults = []
        self._clear(case)
        assert run(case.line) == 0, self.capsys.readouterr().err
        for name in case.reads:
            path = sorted(self.folder.glob(name))[0]
            whole = path.read_bytes()
            start = zlib.crc32(f"{case.line} {name}".encode()) % share
            for damage, content in list(damages(path))[start::share]:
                path.write_bytes(content)
                self._clear(case)
                self.n_inputs += 1
                try:
                    fault = self._fault_of(case)
                finally:
                    path.write_bytes(whole)
                if fault:
                    faults.append(f"{case.id()}: {name} {damage}: {fault}")
        self._clear(case)
        return faults

    def _fault_of(self, case: Case) -> str | None:
        self.capsys.readouterr()
        try:
            code = run(case.line)
        except Exception as err:
            return f"{type(err).__name__}: {err}"[:300]
        shown = self.capsys.readouterr().err
        written = self._written()
        if (self.folder / CODE_RAN).exists():
            return "it ran the code in it"
        if "Traceback" in shown:
            return "a traceback"
        if code == 0:
            return None if not written or _is_whole(self.folder) else f"half: {written}"
        if code not in (1, 2) or "Error: " not in shown:
            return f"exit code {code} and {shown[-200:]!r}"
        last = shown[shown.index("Error: ") :].rstrip("\n")
        if "\n" in last or len(last) > 3_500 or "NoneType" in last or "<unicode" in last:
            return f"the message {last[:300]!r}"
        return f"left behind: {written}" if written and not case.begin else None

    def _written(self) -> list[str]:
        """Files at the place of --out; the folder alone, a lock, or a chain's config is nothing."""
        found = [file for path in self.folder.glob("*out*") for file in (path, *path.rglob("*"))]
        files = [file for file in found if file.is_file() and file.suffix != ".lock"]
        return [file.name for file in files if not file.match(".steps/config.json")]

    def _clear(self, case: Case) -> None:
        for path in self.folder.glob("*out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.folder.glob("ledger/out.csv"):
            path.unlink()
        if case.begin:
            source, target = (self.folder / name for name in case.begin)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def _is_whole(folder: Path) -> bool:
    """Read what was written; half of it cannot be read."""
    for path in folder.glob("out.parquet"):
        pq.read_table(path)
    for path in folder.glob("out/**/manifest.parquet"):
        read_manifest(path)
    for path in folder.glob("out/**/best"):
        read_info(path)
    return True


@pytest.fixture
def guard(request: pytest.FixtureRequest, capsys: Any, monkeypatch: Any) -> Guard:
    case: Case = request.getfixturevalue("case")
    folder: Path = request.getfixturevalue("models" if case.needs_models else "tables")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ABHINAYA_DEBUG", "1")
    return Guard(folder, capsys)


CHEAP = [case for case in CASES if case.line.split()[0] in ("vote", "submit", "convert", "compare")]


@pytest.mark.parametrize("case", CHEAP, ids=Case.id)
def test_damaged_file_ends_in_a_line_of_ours_or_does_not_matter(case: Case, guard: Guard) -> None:
    """One damage in six, other ones for every file and command; the rest is slow."""
    faults = guard.check(case, 6)
    assert not faults, "\n".join(faults)
    assert guard.n_inputs >= len(case.reads)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=Case.id)
def test_any_damaged_file_ends_in_a_line_of_ours_or_does_not_matter(
    case: Case, guard: Guard
) -> None:
    """All damages of tables and corpora, and one in six of what models read."""
    faults = guard.check(case, 6 if case.needs_models else 1)
    assert not faults, "\n".join(faults)
    assert guard.n_inputs >= len(case.reads)


def test_there_are_enough_damages(tables: Path) -> None:
    """Counted without the files of models."""
    files = [name for case in CASES if not case.needs_models for name in case.reads]
    assert sum(len(list(damages(tables / name))) for name in files) >= 877


def test_every_command_is_guarded_or_exempt() -> None:
    found = set(_commands(typer.main.get_command(app)))
    guarded = {
        max((name for name in found if f"{case.line} ".startswith(f"{name} ")), key=len)
        for case in CASES
    }
    assert found == guarded | set(EXEMPT)
    assert not guarded & set(EXEMPT)
    assert len(found) > 20


def _commands(command: Any, above: str = "") -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _commands(below, f"{above} {name}".strip())
    else:
        yield above
