"""The log of how long steps took."""

from __future__ import annotations

import logging
from types import SimpleNamespace

from abhinaya.pipeline.launching import launch
from abhinaya.pipeline.times import estimate_left, note_time, read_times


def test_last_time_of_a_step_counts_and_a_broken_line_does_not(tmp_path):
    assert read_times(tmp_path) == {}
    (tmp_path / ".steps").mkdir()
    note_time(tmp_path, "train:wavlm", 600.04)
    note_time(tmp_path, "predict:dev:wavlm", 30)
    note_time(tmp_path, "train:wavlm", 500)
    with (tmp_path / ".steps" / "times.jsonl").open("a") as file:
        file.write('[1]\n{"step": "predict:dev:wavlm", "sec')  # killed
    assert read_times(tmp_path) == {"train:wavlm": 500.0, "predict:dev:wavlm": 30.0}


def test_step_takes_what_it_took_or_what_others_of_its_kind_took():
    times = {"train:a": 100.0, "train:b": 300.0, "predict:dev:a": 10.0}
    assert estimate_left(["train:a", "predict:dev:a"], times) == 110
    # c as the mean of a and b
    assert estimate_left(["train:c", "predict:dev:a"], times) == 210
    assert estimate_left(["train:a", "vote:dev"], times) is None
    assert estimate_left([], times) == 0


def test_launched_step_is_as_quiet_as_the_chain(monkeypatch):
    commands = []
    monkeypatch.setattr(launch, "run_and_pass_on", lambda command: commands.append(command) or 0)
    start = SimpleNamespace(n_processes=2, n_machines=1, config_file=None)
    launch.launch(start, ["train", "x.yaml"])
    monkeypatch.setattr(logging.getLogger("abhinaya"), "level", logging.WARNING)
    launch.launch(start, ["train", "x.yaml"])
    assert commands[0][-2:] == ["train", "x.yaml"]
    assert commands[1] == [*commands[0], "--quiet"]
