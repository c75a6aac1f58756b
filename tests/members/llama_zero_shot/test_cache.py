"""The store of answers: appended lines that survive kills, shared by processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from abhinaya.prompting.prompts import Turn
from members.llama_zero_shot.cache import AnswerStore, key_of
from members.llama_zero_shot.engine import Answer, Question

ROOT = Path(__file__).resolve().parents[3]
SAD = Answer("sad", (0.25, 0.75), 90, 1)


def test_answers_are_there_again_for_the_next_process(tmp_path):
    with AnswerStore(tmp_path / "answers") as store:
        store.add("a", SAD)
        store.add(
            "b", Answer("\U0001f622 \u05e2\u05e6\u05d5\u05d1\nin two lines\u2028", None, None, None)
        )
    again = AnswerStore(tmp_path / "answers")
    assert len(again) == 2
    assert again["a"] == SAD
    assert again["b"].text == "\U0001f622 \u05e2\u05e6\u05d5\u05d1\nin two lines\u2028"
    assert "c" not in again


def test_only_what_is_wanted_is_held(tmp_path):
    with AnswerStore(tmp_path) as store:
        store.add("a", SAD)
        store.add("b", SAD)
    wanted = AnswerStore(tmp_path, {"b", "c"})
    assert len(wanted) == 1
    assert "b" in wanted


def test_folder_that_is_only_read_stays_empty(tmp_path):
    assert len(AnswerStore(tmp_path / "answers")) == 0
    assert not (tmp_path / "answers").exists()


def test_line_that_was_cut_is_as_if_never_written_and_later_ones_are_whole(tmp_path):
    with AnswerStore(tmp_path) as store:
        store.add("a", SAD)
        store.add("b", SAD)
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    with AnswerStore(tmp_path) as store:
        assert "a" in store
        assert "b" not in store
        store.add("b", Answer("happy"))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert AnswerStore(tmp_path)["b"].text == "happy"


def test_damaged_lines_are_told_and_left_out(tmp_path, caplog):
    with AnswerStore(tmp_path) as store:
        store.add("a", SAD)
    good = next(tmp_path.glob("*.jsonl")).read_text()
    bad = ["{", "[]", "null", '{"format": "other", "key": "x"}', good.replace('"text"', '"tixt"')]
    (tmp_path / "bad.jsonl").write_text("".join(f"{line.strip()}\n" for line in bad))
    caplog.set_level(logging.WARNING)
    assert len(AnswerStore(tmp_path)) == 1
    assert "5 lines of" in caplog.text
    assert "bad.jsonl are damaged; what they held is asked again" in caplog.text


def test_failure_is_kept_for_this_run_only(tmp_path):
    ours, theirs = AnswerStore(tmp_path), AnswerStore(tmp_path)
    theirs.add("a", Answer("", failure="too long"))
    theirs.add("b", SAD)
    theirs.close()
    ours.refresh()
    assert ours["a"].failure == theirs["a"].failure == "too long"
    assert ours["b"] == SAD
    assert "a" not in AnswerStore(tmp_path)


def test_refresh_reads_what_others_added_since(tmp_path):
    ours, theirs = AnswerStore(tmp_path), AnswerStore(tmp_path)
    for number in range(3):
        theirs.add(f"a{number}", SAD)
        ours.refresh()
        assert len(ours) == number + 1
    # A line that is being written is read once it is whole.
    (file,) = tmp_path.glob("*.jsonl")
    line = file.read_bytes().splitlines(keepends=True)[0].replace(b'"a0"', b'"late"')
    with file.open("ab") as stream:
        stream.write(line[:10])
        stream.flush()
        ours.refresh()
        assert "late" not in ours
        stream.write(line[10:])
    ours.refresh()
    assert ours["late"] == SAD


def test_process_that_is_killed_has_lost_nothing_that_it_added(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from members.llama_zero_shot.cache import AnswerStore\n"
        "from members.llama_zero_shot.engine import Answer\n"
        "store = AnswerStore(Path(sys.argv[1]))\n"
        "for number in range(10**9):\n"
        "    store.add(f'k{number}', Answer('sad ' * 100))\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    told = process.stdout.read().split()
    process.wait()
    store = AnswerStore(tmp_path)
    n_told = int(told[-1]) + 1
    assert n_told > 10
    # One may have been added and not told any more.
    assert len(store) in (n_told, n_told + 1)


def test_questions_are_not_stored(tmp_path):
    question = Question((Turn("user", "a licensed transcript"),))
    with AnswerStore(tmp_path) as store:
        store.add(key_of(question, "m", {}), SAD)
    (file,) = tmp_path.glob("*.jsonl")
    assert "licensed" not in file.read_text()
    assert json.loads(file.read_text())["text"] == "sad"


def test_key_depends_on_all_that_decides_an_answer():
    turns = (Turn("system", "a"), Turn("user", "b"))
    asked = [
        (Question(turns), "m", {"temperature": 0}),
        (Question(turns, 1), "m", {"temperature": 0}),
        (Question(turns), "n", {"temperature": 0}),
        (Question(turns), "m", {"temperature": 1}),
        (Question((Turn("user", "a"), Turn("user", "b"))), "m", {"temperature": 0}),
        (Question((Turn("system", "ab"), Turn("user", ""))), "m", {"temperature": 0}),
        (Question(turns[:1]), "m", {"temperature": 0}),
    ]
    keys = [key_of(*one) for one in asked]
    assert len(set(keys)) == len(keys)
    assert keys[0] == key_of(Question(tuple(turns)), "m", {"temperature": 0})
    assert len(keys[0]) == 32
