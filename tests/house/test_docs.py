"""The pages in docs/ are tried from their own text: commands are run, code is written and used."""

from __future__ import annotations

import csv
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from source_tree import ROOT

import members
from abhinaya.cli import main
from abhinaya.config import merge, parse_yaml
from abhinaya.data.predictions import read_table
from abhinaya.demo.checkpoints.encoders import write_whisper
from abhinaya.member_config import check_member_config

DOCS = ROOT / "docs"


def commands_in(page: str) -> list[list[str]]:
    """Return the arguments of every `abhinaya ...` line of a page, continued lines joined."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    abhinaya ")]
    return [shlex.split(line)[1:] for line in lines]


def files_in(page: str) -> dict[str, str]:
    """Return the blocks that follow a line of a path in backquotes and a colon."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return dict(re.findall(r"(?ms)^`([\w/.]+)`:\n\n```\w+\n(.*?)```", text))


def run(args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 0, args


def write_noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(16_000)
    soundfile.write(path, 0.1 * noise, 16_000)


@pytest.fixture
def own_corpus(tmp_path, monkeypatch):
    """The folder `mine` of the quick start, its clips made of noise, and two other tables."""
    monkeypatch.chdir(tmp_path)
    rows = [("file", "label", "speaker", "split")]
    for idx in range(12):
        split = ("train", "train", "development", "test")[idx % 4]
        rows.append((f"clips/{idx:04d}.wav", ("angry", "sad")[idx % 3 % 2], f"s{idx}", split))
        write_noise(tmp_path / "mine" / rows[-1][0], seed=idx)
    with (tmp_path / "mine" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for name, label in (("other", "angry"), ("third", "sad")):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            tests = [(row[0].removeprefix("clips/"), label) for row in rows if row[3] == "test"]
            csv.writer(file).writerows([("FileName", "EmoClass"), *tests])
    return tmp_path


@pytest.mark.slow
def test_quick_start_works_as_it_is_written(own_corpus):
    base = own_corpus / "tiny"
    write_whisper(base, chunk_s=15, n_layers=2, n_features=16)
    given = commands_in("quick-start.md")
    assert [args[0] for args in given] == [
        "prepare",
        "train",
        "predict",
        "score",
        "vote",
        "submit",
    ]
    for args in given:
        run([f"base={base}" if arg == "base=openai/whisper-small" else arg for arg in args])
    rows = (own_corpus / "runs" / "mine" / "submission.csv").read_text().splitlines()
    assert rows[0] == "FileName,EmoClass"
    assert [row.split(",")[0] for row in rows[1:]] == ["0003.wav", "0007.wav", "0011.wav"]


def test_readme_begins_with_the_commands_of_the_quick_start():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin = readme.index("## Quick start")
    assert begin < readme.index("make demo")
    for args in commands_in("quick-start.md")[:5]:
        assert " ".join(args) in " ".join(readme[begin:].replace("\\\n", " ").split())


@pytest.mark.slow
def test_readme_section_on_own_recordings_works_as_it_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_whisper(tmp_path / "tiny", chunk_s=15, n_layers=2, n_features=16)
    for idx in range(10):
        write_noise(Path("recordings", ("angry", "sad")[idx % 2], f"{idx}.wav"), seed=idx)
    for name in ("interview.wav", "calls/1.wav", "calls/2.wav"):
        write_noise(Path(name), seed=99)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.index("## Two commands") < readme.index("## Your own recordings")
    section = readme.split("## Your own recordings")[1].split("\n## ")[0].replace("\\\n", " ")
    given = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert len(given) == 6
    shown = []
    for line in given:
        args = shlex.split(line.partition("| ")[2] or line, comments=True)[1:]
        args = ["base=tiny" if arg == "base=openai/whisper-small" else arg for arg in args]
        args = ["interview.wav" if arg == "*.wav" else arg for arg in args]
        monkeypatch.setattr("sys.stdin", open("interview.wav"))
        run(args)
        shown.append(capsys.readouterr().out)
    assert "abhinaya predict runs/mine --select test" in shown[0]
    assert "sad" in shown[2]
    assert "interview.wav" in shown[3]
    assert "2.wav" in shown[3]
    assert Path("labels.csv").read_text().startswith("FileName,EmoClass,prob_angry,prob_sad")
    assert '"recording": "stdin"' in shown[5]


def test_a_corpus_is_added_as_it_is_written(tmp_path, monkeypatch):
    from abhinaya import corpora

    page = "add-a-corpus.md"
    ((path, code),) = files_in(page).items()
    assert code == (ROOT / path).read_text(encoding="utf-8")
    name = re.search(r"abhinaya prepare (\w+) FOLDER", (DOCS / page).read_text("utf-8"))
    assert name is not None
    module = Path(path).stem
    (tmp_path / f"{module}_from_docs.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(corpora.CORPORA, name.group(1), f"{module}_from_docs")
    for idx, clip in enumerate(("03-01-06-01-02-01-12", "03-01-01-01-01-01-11", "readme")):
        write_noise(tmp_path / "source" / "Actor_12" / f"{clip}.wav", seed=idx)
    run(["prepare", name.group(1), str(tmp_path / "source"), "--out", str(tmp_path / "out")])

    from abhinaya.data.manifest import read_manifest

    rows = read_manifest(tmp_path / "out" / "manifest.parquet").rows.set_index("utterance")
    # Emotion 06 is the sixth class, fearful; actor 12 is even, a woman.
    assert rows.loc["03-01-06-01-02-01-12.wav", ["label", "speaker", "gender"]].tolist() == [
        "fearful",
        "ravdess-12",
        "female",
    ]
    assert len(rows) == 2
    assert "readme.wav" in (tmp_path / "out" / "problems.csv").read_text()


def test_a_fusion_rule_is_added_as_it_is_written(own_corpus, monkeypatch):
    from ensembling.learned import rules

    page = "add-a-fusion-rule.md"
    ((path, code),) = files_in(page).items()
    module = f"{Path(path).stem}_from_docs"
    (own_corpus / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(own_corpus)
    rule = importlib.import_module(module).BEST_MEMBER
    monkeypatch.setattr(rules, "LEARNED", {**rules.LEARNED, rule.name: rule})
    # Member b is right three times of four, a once; b abstains on the last row.
    letters = {"truth": "AAHH", "a": "HHAH", "b": "AAH"}
    for name, labels in letters.items():
        rows = [f"u{idx}.wav,{label}" for idx, label in enumerate(labels.ljust(4, "-"))]
        text = "\n".join(["FileName,EmoClass", *rows, ""]).replace("-", "")
        (own_corpus / f"{name}.csv").write_text(text)
    for args in commands_in(page):
        run(args)
    fused = (own_corpus / "fused.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in fused[1:]] == ["A", "A", "H", "H"]


def test_a_member_is_added_as_it_is_written(own_corpus, monkeypatch):
    page = "add-a-member.md"
    files = files_in(page)
    assert set(files) == {"gru/config.py", "gru/model.py", "gru/member.py", "gru.yaml"}
    for path, text in files.items():
        (own_corpus / path).parent.mkdir(exist_ok=True)
        (own_corpus / path).write_text(text, encoding="utf-8")
    registered = re.search(r'^gru = "([\w.:]+)"$', (DOCS / page).read_text("utf-8"), re.MULTILINE)
    assert registered is not None
    monkeypatch.syspath_prepend(own_corpus)
    monkeypatch.setitem(members.MEMBERS, "gru", registered.group(1))
    run(["prepare", "folder", "mine", "--out", "runs/mine"])
    for args in commands_in(page):
        run(args)
    table = read_table(own_corpus / "gru.parquet")
    assert len(table) == 3
    # A clip alone is labelled as among others: no padding leaks.
    run([*commands_in(page)[1][:-1], "alone.parquet", "inference.batch_size=1"])
    alone = read_table(own_corpus / "alone.parquet")
    np.testing.assert_allclose(alone.probs, table.probs, atol=1e-6)


@pytest.mark.parametrize("section", ["Mixing", "Augmentation"])
def test_yaml_of_a_recipe_is_a_valid_config(section):
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    text = re.split(r"(?m)^## ", page.split(f"## {section}\n")[1])[0]
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)```", text)
    rest = "{member: wavlm, name: a, run_dir: a, base: a, data: {manifest: a}}"
    content = parse_yaml(rest)
    content["training"] = {"global_batch_size": 2}
    for block in blocks:
        check_member_config(merge(content, parse_yaml(block)), section)
    assert blocks


def test_every_link_between_the_pages_leads_somewhere():
    pages = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    dead, n_links = [], 0
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            n_links += 1
            if not (page.parent / link).exists():
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert not dead, f"{dead}: correct the link, or write the page."
    assert n_links >= 15


def test_files_that_members_readmes_list_are_there():
    """One README listed two files that had moved elsewhere."""
    n_files, absent = 0, []
    for readme in sorted((ROOT / "members").glob("*/README.md")):
        for row in re.findall(r"(?m)^\| (`[^|]+`) \|", readme.read_text(encoding="utf-8")):
            names = re.findall(r"`([\w/]+(?:\.py|/))`", row)
            n_files += len(names)
            absent += [f"{readme}: {name}" for name in names if not (readme.parent / name).exists()]
    assert not absent, f"{absent}: remove the rows, or name the files that hold it now."
    assert n_files >= 25
