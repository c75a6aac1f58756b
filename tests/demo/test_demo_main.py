from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from abhinaya.cli import main
from abhinaya.demo import __main__ as program
from abhinaya.demo.checkpoints import trained_llama
from abhinaya.demo.corpus import release
from abhinaya.resources import configs_dir

pytestmark = pytest.mark.slow

ROOT = configs_dir().parent

SPEECH = ("wavlm", "whisper-encoder", "whisper-encoder-lora", "gen-ser", "salmonn", "salmonn-text")
TRAINED = (*SPEECH, "llama-lora")
ASKED = ("llama-zero-shot",)


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    """What a demo of 64 clips and hardly any training printed; its folder is the working directory.

    It started beside the leftovers of a killed one.
    """
    folder = tmp_path_factory.mktemp("demo")
    chain = yaml.safe_load((configs_dir() / program.CHAIN).read_text())
    chain["prepare"]["balanced_per_class"] = 1
    for name in TRAINED:
        chain["members"][name]["set"] = {"training": {"num_train_epochs": 1}}
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain, sort_keys=False))
    write = functools.partial(release.write_corpus, n_clips=64, n_speakers=8)
    teach = functools.partial(trained_llama.write_trained_llama, n_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(program, "CHAIN", "chain.yaml")
        patch.setattr(release, "write_corpus", write)
        patch.setattr(trained_llama, "write_trained_llama", teach)
        for part in ("source/.release.123.tmp/Audios", ".checkpoints.123.tmp/wavlm"):
            (program.FOLDER / part).mkdir(parents=True)
        yield run_demo()


def run_demo():
    """What the demo prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        program.demo()
    return printed.getvalue()


def run(*args):
    """Exit code of a command line."""
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code


def test_demo_tells_of_every_step_and_where_everything_is(small_demo):
    assert small_demo.count("synthetic") >= 4
    assert "64 clips (37 Train, 11 Development, 8 Test1, 8 Test3) of 8 synthetic" in small_demo
    trained = re.findall(r"^trained (\S+): (\S+)$", small_demo, flags=re.MULTILINE)
    assert trained == [(name, f"runs/demo/runs/{name}/best") for name in TRAINED]
    predicted = re.findall(r"^predicted test with (\S+): ", small_demo, flags=re.MULTILINE)
    assert sorted(predicted) == sorted([*TRAINED, *ASKED])
    # How this Python is called depends on where it is.
    assert max(map(len, small_demo.replace(program._program(), "abhinaya").splitlines())) <= 110
    end = small_demo[small_demo.index("On the 8 test clips") :]
    assert re.search(r"macro-F1 of \d\.\d\d\n\(95 % interval \d\.\d\d to \d\.\d\d\)", end)
    listed = re.findall(r"^  ([\w./-]+) {2,}\w", end, flags=re.MULTILINE)
    assert len(listed) == 7
    assert all(Path("runs/demo", name).exists() for name in listed)


def test_second_demo_computes_nothing_and_tells_the_same(small_demo):
    def times():
        return {f: f.stat().st_mtime_ns for f in Path("runs").rglob("*") if f.is_file()}

    before = times()
    assert len(before) > 100
    again = run_demo()
    assert times() == before
    assert again.endswith(small_demo[small_demo.index("On the 8 test clips") :])
    assert "\ntrained " not in again
    assert "Speaking" not in again


def test_every_command_to_try_next_works(small_demo, capsys):
    end = small_demo.partition("What to try next:\n")[2]
    commands = [shlex.split(line) for line in end.replace("\\\n", " ").splitlines()]
    assert len(commands) == 7
    for command in commands:
        at = next(i for i, word in enumerate(command) if word.endswith("abhinaya"))
        args = []
        for word in command[at + 1 :]:
            args += sorted(map(str, Path().glob(word))) if "*" in word else [word]
        if args[0] == "train":
            args.append("training.num_train_epochs=1")
        assert run(*args) == 0, capsys.readouterr().err
    assert Path("runs/demo/other-vote.parquet").is_file()
    assert len(list(Path("runs/demo/prompts").glob("*.parquet"))) == 2
    assert Path("runs/demo/runs/wavlm-2/best").is_dir()


def test_obstacle_is_a_message_and_exit_code_1(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "abhinaya.demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"Error: (Not a directory|File exists): .*runs.*\n", done.stderr)


def test_abhinaya_is_called_as_this_python_where_it_is_not_on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "")
    bin_dir = Path(sys.executable).parent
    monkeypatch.chdir(bin_dir.parent)
    assert program._program() == f"{bin_dir.name}/{Path(sys.executable).name} -m abhinaya"
    # A way up through many folders is longer than the path from the root.
    deep = bin_dir.parent.joinpath(*["x" * 9] * 9)
    monkeypatch.setattr(os, "getcwd", lambda: str(deep))
    assert program._program() == f"{sys.executable} -m abhinaya"
