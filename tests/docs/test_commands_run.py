"""The commands of the pages, run one after the other as they are printed, on tiny files."""

from __future__ import annotations

import glob
import io
import re
import shutil
import sys
from pathlib import Path

import pytest
from command_lines import CommandLine, command_lines, pages
from pages_workplace import PREMADE, write_pages_workplace
from source_tree import ROOT

from abhinaya.cli import main
from abhinaya.config import load_yaml
from abhinaya.resources import find_config

STANDS_FOR = {
    "/data/MSP-Podcast": "release",
    "M": "corpus/manifest.parquet",
    "MANIFEST": "corpus/manifest.parquet",
    "IEMOCAP": "corpus/manifest.parquet",
    "CREMA-D": "other/manifest.parquet",
    "NAME": "MSP-PODCAST_0002_0000.wav",
    "U": "MSP-PODCAST_0002_0000.wav",
    "--challenge": "--names",
    "is2025": "names.txt",
    "CONFIG": "members/llama-70b-zero-shot.yaml",
    "EXPERIMENT.yaml": "experiment.yaml",
    "FOLDER": "runs/prompts",
    "--download": "--model=models/large-v3.pt --temperature=0",
    # Numbers that decide only how long it takes.
    "1,2,3": "1",
    "1,2,3,4,5": "1",
    "seed=1,2,3": "seed=1",
    "seed=1,2": "seed=1",
    "loss.gamma=0,1,2": "loss.gamma=0,1",
    "head.dropout=0.1,0.5": "head.dropout=0.1",
    "40": "1",
}
"""A word of a page, or what follows its first `=` -> what it is in the folder of the test."""

BEFORE = {
    "docs/recipes.md": "prepare msp-podcast release --out runs/msp",
    "docs/tutorials/prompts.md": "prepare msp-podcast release --out runs/msp",
    "docs/phone.md": "prepare folder mine --out runs/mine",
}
"""Page -> a command that it takes for done."""

_TINY_MEMBERS = (
    "published weights; tests/members/test_contract.py trains and predicts with tiny ones of every "
    "kind, tests/members/*/test_doctor.py looks at them"
)
NOT_RUN = {
    r".*: abhinaya run .* gpus=8$": "eight GPUs; tests/pipeline/test_launched_chain.py launches",
    r"docs/recipes\.md: abhinaya doctor": "takes 20 s; tests/members/fusion/test_doctor.py",
    r"docs/(quick-start|add-a-[a-z-]+)\.md": "tests/house/test_docs.py follows them to the end",
    r"docs/scale\.md": "several devices, SLURM; tests/pipeline/test_launched_chain.py launches",
    r"docs/results/": "hours on corpora that are not here",
    r"abhinaya/asr/README\.md: abhinaya transcribe": "as docs/tutorials/prompts.md",
    r".*: abhinaya app": "serves until it is stopped; tests/browser/test_app.py",
    r"docs/corpora\.md": "corpora not here; tests/corpora/test_corpora_contract.py, test_hub.py",
    r"docs/report\.md": "a chain that has run; tests/report/test_report.py",
    r"docs/audit\.md": "takes minutes; tests/probing/test_audit.py",
    r"configs/audit/": "as docs/audit.md",
    r"members/": _TINY_MEMBERS,
    r"configs/members/": _TINY_MEMBERS,
    r"configs/(accelerate|ensemble)/": "several GPUs; tests/test_configs.py reads them",
    r"configs/(corpora|demo)/": "a corpus that is not here, or the whole demo (make demo)",
}
"""Pattern of `PAGE: COMMAND` -> why it is not run here. Every other line has to work."""

HOW_TO_MEND = (
    "Correct the first of these lines. Or give it what it reads: the files are written by "
    "tests/helpers/pages_workplace.py, words that stand for them are in STANDS_FOR. If it cannot "
    "run here, say why in NOT_RUN."
)
LINES = [line for page in pages() for line in command_lines(page) if line.is_whole]


def reason_not_to_run(line: CommandLine) -> str | None:
    text = f"{line.page}: {' '.join(line.words)}"
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, text)), None)


RUN = sorted({line.page for line in LINES if reason_not_to_run(line) is None})


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_pages_workplace(folder)
    return folder


def tiny(line: CommandLine) -> list[str]:
    """Return the words of a line with the reader's files, runs and sizes in place."""
    words = []
    for word in line.words[1:]:
        key, equals, value = word.partition("=")
        if equals and not word.startswith("-") and value in STANDS_FOR:
            word = f"{key}={STANDS_FOR[value]}"
        for part in STANDS_FOR[word].split() if word in STANDS_FOR else [word]:
            words += sorted(glob.glob(part)) if "*" in part else [part]
    return words


def make_room(words: list[str]) -> None:
    """Remove what stood in for that which this command makes."""
    made = [words[idx + 1] for idx, word in enumerate(words) if word == "--out"]
    if words[0] == "train":
        given = [word.removeprefix("run_dir=") for word in words if word.startswith("run_dir=")]
        made += given or [load_yaml(find_config(words[1]))["run_dir"]]
    for name in {*made} & {*PREMADE}:
        if Path(name).is_file():
            Path(name).unlink()
        elif not glob.glob(f"{name}/checkpoint-*"):
            shutil.rmtree(name, ignore_errors=True)


def exit_code(words: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_commands_of_a_page_run_as_they_are_printed(page, workplace, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "here"
    shutil.copytree(workplace, folder, symlinks=True)
    monkeypatch.chdir(folder)
    recording = Path("interview.wav").read_bytes()
    if page in BEFORE:
        assert exit_code(BEFORE[page].split()) == 0
    n_run, failed = 0, []
    for line in command_lines(ROOT / page):
        if not line.is_whole or reason_not_to_run(line) is not None:
            continue
        words = tiny(line)
        make_room(words)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(recording)))
        code, shown = exit_code(words), capsys.readouterr()
        if code != 0:
            failed.append(f"{line}\nended with {code}: {shown.err[-800:]}")
        n_run += 1
    assert not failed, "\n".join([*failed, HOW_TO_MEND])
    assert n_run


def test_every_reason_is_needed():
    texts = [f"{line.page}: {' '.join(line.words)}" for line in LINES]
    stale = [pattern for pattern in NOT_RUN if not any(re.match(pattern, text) for text in texts)]
    assert not stale, f"no command is like {stale}: remove the reason."
    assert len(RUN) >= 10
