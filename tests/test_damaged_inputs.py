"""Every command with every kind of file that it reads, damaged: a line of ours, and nothing half.

A new command, or a new kind of file of one, gets a line in `CASES`.
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
from damages import damages
from workplace import NAMES, write_corpora, write_models, write_tables

from abhinaya.cli import app, main
from abhinaya.data.manifest import read_manifest
from abhinaya.nn.checkpoint import read_info


@dataclass(frozen=True)
class Case:
    """A command line that works, and the files whose damage it has to survive.

    Args:
        line: what follows `abhinaya`; all it writes goes to `out` or `out.*`.
        reads: the files, in the folder of `workplace`.
        needs_models: tiny models are written first; such cases are slow.
        begin: a file or folder that is copied to where the output goes before each run.
    """

    line: str
    reads: tuple[str, ...]
    needs_models: bool = False
    begin: tuple[str, str] | None = None

    def id(self) -> str:
        return self.line.replace("/", "-").replace("--", "")[:60]


WAV = f"clips/{NAMES[0]}"
LEARN = "--manifest manifest.csv --resamples 10"
CASES: tuple[Case, ...] = (
    Case("prepare folder clips --out out", ("clips/labels.csv", WAV, "clips/other.flac")),
    Case("prepare folder clips --transcripts heard=heard.csv --out out", ("heard.csv",)),
    Case(
        "prepare msp-podcast release --out out",
        (
            "release/Labels/labels_consensus.csv",
            "release/Labels/labels_detailed.csv",
            "release/Partitions.txt",
            f"release/Transcripts/{NAMES[0][:-4]}.txt",
        ),
    ),
    Case("prepare msp-podcast-lists lists --no-audio --out out", ("lists/train.json",)),
    Case("prepare emodb emodb --out out", ("emodb/wav/03a01Wa.wav", "emodb/metadata.csv")),
    Case("prepare meld meld --out out", ("meld/dev_sent_emo.csv",)),
    Case("vote p.parquet q.parquet --rule soft --out out.parquet", ("p.parquet",)),
    Case("vote p.parquet q.parquet r.csv --out out.csv", ("q.parquet", "r.csv")),
    Case(
        f"ablate p.parquet q.parquet r.csv {LEARN} --combinations combinations.yaml "
        "--out out.parquet",
        ("p.parquet", "r.csv", "manifest.csv", "combinations.yaml"),
    ),
    Case(
        "fit weights p.parquet q.parquet --manifest corpus/manifest.parquet --resamples 10 "
        "--folds 2 --out out.json",
        ("p.parquet", "corpus/manifest.parquet"),
    ),
    Case(
        "apply recipe.json p.parquet q.parquet --allow-fitted-rows --out out.parquet",
        ("recipe.json", "q.parquet"),
    ),
    Case(
        "smooth p.parquet --manifest corpus/manifest.parquet --jobs 1 --out out.parquet",
        ("p.parquet", "corpus/manifest.parquet"),
    ),
    Case(
        "score p.parquet r.csv --manifest corpus/manifest.parquet --by-speaker --resamples 10",
        ("p.parquet", "corpus/manifest.parquet"),
    ),
    Case("score p.parquet --manifest truth.csv --resamples 10", ("truth.csv",)),
    Case(
        f"compare p.parquet r.csv {LEARN}",
        ("p.parquet", "r.csv", "manifest.csv"),
    ),
    Case(
        "score-asr corpus/manifest.parquet --source heard --resamples 10",
        ("corpus/manifest.parquet", "corpus/transcripts.parquet"),
    ),
    Case("submit p.parquet --names names.txt --out out.csv", ("p.parquet", "names.txt")),
    Case(
        "submit p.parquet --names corpus/manifest.parquet --out out.csv",
        ("corpus/manifest.parquet",),
    ),
    Case("submit p.parquet --names names.txt --out ledger/out.csv", ("ledger/submissions.jsonl",)),
    Case("submit --score 0.4 --out ledger/submitted.csv", ("ledger/submissions.jsonl",)),
    Case(f"prompts compare answered {LEARN}", ("answered/p.parquet", "manifest.csv")),
)
CASES += (
    Case(
        "prompts show own-v1.md --manifest corpus/manifest.parquet --model chat.yaml "
        f"--transcripts heard --utterance {NAMES[0]}",
        ("own-v1.md", "corpus/manifest.parquet", "corpus/transcripts.parquet", "chat.yaml"),
        True,
    ),
    Case(
        "prompts run trials.yaml",
        (
            "trials.yaml",
            "chat.yaml",
            "llm/config.json",
            "llm/tokenizer.json",
            "llm/tokenizer_config.json",
            "llm/model.safetensors.index.json",
            "llm/model-00002-of-00002.safetensors",
        ),
        True,
    ),
    Case(
        "train wavlm.yaml",
        (
            "wavlm.yaml",
            "corpus/manifest.parquet",
            WAV,
            "base/config.json",
            "base/preprocessor_config.json",
            "base/model.safetensors",
        ),
        True,
    ),
    Case(
        "predict run --manifest corpus/manifest.parquet --select development --out out.parquet",
        (
            "run/best/config.yaml",
            "run/best/classes.json",
            "run/best/metrics.json",
            "run/best/facts.json",
            "run/best/model.safetensors",
            "corpus/manifest.parquet",
            f"clips/{NAMES[-1]}",
        ),
        True,
    ),
    Case(
        "soup run run2 --out out",
        ("run/best/config.yaml", "run/best/facts.json", "run2/best/model.safetensors"),
        True,
    ),
    Case(
        "speakers corpus/manifest.parquet --replace --model voices --n-speakers 2 "
        "--embeddings out.npz --out out.parquet",
        ("corpus/manifest.parquet", WAV, "voices/config.json", "voices/model.safetensors"),
        True,
    ),
    Case(
        "speakers corpus/manifest.parquet --replace --n-speakers 2 --embeddings voices.npz "
        "--out out.parquet",
        ("voices.npz",),
        True,
    ),
    Case(
        "transcribe heard/manifest.parquet --model whisper/hub --source tiny --temperature 0",
        (
            "whisper/hub/config.json",
            "whisper/hub/model.safetensors",
            "whisper/hub/generation_config.json",
            "whisper/hub/preprocessor_config.json",
        ),
        True,
    ),
    Case(  # A killed training goes on.
        "train wavlm.yaml run_dir=out/run",
        (
            "half/digest.json",
            "half/checkpoint-2/trainer_state.json",
            "half/checkpoint-2/optimizer.pt",
            "half/checkpoint-2/scheduler.pt",
            "half/checkpoint-2/rng_state.pth",
            "half/checkpoint-2/model.safetensors",
            "features/**/*.npy",
        ),
        True,
        ("half", "out/run"),
    ),
    Case(  # What is there already.
        "predict run --manifest corpus/manifest.parquet --select development --out out.parquet",
        ("made.parquet",),
        True,
        ("made.parquet", "out.parquet"),
    ),
    Case(
        "predict chat.yaml --manifest corpus/manifest.parquet --select development "
        "--out out.parquet",
        ("answers/**/*.jsonl", "own-v1.md", "llm/tokenizer.json"),
        True,
    ),
    Case(
        "run chain.yaml",
        ("ran/.steps/train.tiny.json", "ran/tables/dev/tiny.parquet", "ran/runs/tiny/digest.json"),
        True,
        ("ran", "out"),
    ),
    Case("doctor wavlm.yaml", ("wavlm.yaml", "base/config.json", "base/model.safetensors"), True),
    Case("run chain.yaml", ("chain.yaml", "wavlm.yaml", "base/model.safetensors"), True),
    Case("run chain.yaml --plan", ("chain.yaml", "wavlm.yaml", "base/model.safetensors"), True),
)
EXEMPT = {"prompts list": "it reads shipped prompts alone"}


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
            "predict chat.yaml --manifest corpus/manifest.parquet --select development "
            "--out said.parquet",
            "run chain.yaml",
        ):
            assert run(line) == 0
    shutil.copytree(tables / "out", tables / "ran")
    shutil.copytree(tables / "run", tables / "half")
    shutil.rmtree(tables / "half/best")
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
        """Files at the place of --out; the folder alone, or a lock, is nothing."""
        found = [file for path in self.folder.glob("*out*") for file in (path, *path.rglob("*"))]
        return [file.name for file in found if file.is_file() and file.suffix != ".lock"]

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


SHARE = 8


@pytest.mark.parametrize("case", [case for case in CASES if not case.needs_models], ids=Case.id)
def test_damaged_file_ends_in_a_line_of_ours_or_does_not_matter(case: Case, guard: Guard) -> None:
    """One damage in eight, other ones for every file and command; all of them are slow."""
    faults = guard.check(case, SHARE)
    assert not faults, "\n".join(faults)
    assert guard.n_inputs >= len(case.reads)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=Case.id)
def test_any_damaged_file_ends_in_a_line_of_ours_or_does_not_matter(
    case: Case, guard: Guard
) -> None:
    faults = guard.check(case, 3 if case.needs_models else 1)
    assert not faults, "\n".join(faults)
    assert guard.n_inputs >= len(case.reads)


def test_there_are_enough_damages(tables: Path) -> None:
    """Counted without the files of models."""
    files = [name for case in CASES if not case.needs_models for name in case.reads]
    assert sum(len(list(damages(tables / name))) for name in files) >= 600


def test_every_command_is_guarded_or_exempt() -> None:
    found = set(_commands(typer.main.get_command(app)))
    guarded = {
        max((name for name in found if f"{case.line} ".startswith(f"{name} ")), key=len)
        for case in CASES
    }
    assert found == guarded | set(EXEMPT)
    assert not guarded & set(EXEMPT)
    assert len(found) == 21


def _commands(command: Any, above: str = "") -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _commands(below, f"{above} {name}".strip())
    else:
        yield above
