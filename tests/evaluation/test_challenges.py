from __future__ import annotations

import json
from datetime import UTC, date, datetime

import numpy as np
import pytest

from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.errors import MissingFileError, ProblemsError, UnknownNameError
from abhinaya.evaluation.challenges import (
    CHALLENGES,
    Challenge,
    Quota,
    count_left,
    find_challenge,
)
from abhinaya.evaluation.submission import expected_names, read_ledger
from abhinaya.pipeline.stages.submit import SubmitSettings, run_submit

NOW = datetime(2026, 5, 8, 12, tzinfo=UTC)
MINE = """\
title: Ours
metric: uar
n_rows: 2
names: clip_{:02d}.wav
classes: {codes: [joy, anger]}
layout: {file: name, label: emotion}
quota: {count: 2, per: challenge}
closes: "2126-05-31"
"""


def entry(day, challenge="c", **further):
    when = datetime(2026, 5, day, 12, tzinfo=UTC).isoformat(timespec="seconds")
    return {"date": when, "sha256": str(day), "challenge": challenge, **further}


def table_in(folder, labels, names, emotions):
    table = PredictionTable("run", EmotionSet.from_codes(emotions), tuple(names), np.array(labels))
    write_table(table, folder / "table.parquet")
    return folder / "table.parquet"


def test_shipped_challenges_are_all_read():
    assert set(CHALLENGES) == {
        "is2025",
        "mer2026-cross",
        "odyssey2024",
        "poleval2025-task4",
        "serb",
    }
    assert CHALLENGES["mer2026-cross"].metric == "weighted-f1"
    assert CHALLENGES["serb"].emotions == CHALLENGES["is2025"].emotions
    assert CHALLENGES["odyssey2024"].quota == Quota(count=3, per="challenge")
    assert all(challenge.url.startswith("https://") for challenge in CHALLENGES.values())


def test_file_of_a_team_is_a_challenge(tmp_path):
    (tmp_path / "ours.yaml").write_text(MINE)
    found = find_challenge(str(tmp_path / "ours.yaml"))
    assert found.name == "ours"
    assert found.metric == "uar"
    assert found.closes == date(2126, 5, 31)
    assert expected_names(found) == ("clip_01.wav", "clip_02.wav")


def test_submission_is_written_as_the_file_says_and_counted(tmp_path):
    (tmp_path / "ours.yaml").write_text(MINE)
    settings = SubmitSettings(challenge=str(tmp_path / "ours.yaml"))
    names = ("clip_02.wav", "clip_01.wav")
    table = table_in(tmp_path, [0, 1], names, ("joy", "anger"))
    report = run_submit(table, tmp_path / "out" / "a.csv", settings)
    written = (tmp_path / "out" / "a.csv").read_text()
    assert written == "name,emotion\nclip_01.wav,anger\nclip_02.wav,joy\n"
    assert report.remark == "1 of 2 submissions to ours are left, by the ledger in this folder."
    assert [line["challenge"] for line in read_ledger(tmp_path / "out")] == ["ours"]
    # The same file again is the same submission.
    assert run_submit(table, tmp_path / "out" / "b.csv", settings).remark.startswith("1 of 2")
    table = table_in(tmp_path, [1, 1], names, ("joy", "anger"))
    assert run_submit(table, tmp_path / "out" / "c.csv", settings).remark.startswith("0 of 2")


def test_day_that_is_over_or_to_come_is_told(tmp_path):
    names = ("clip_01.wav", "clip_02.wav")
    table = table_in(tmp_path, [0, 1], names, ("joy", "anger"))
    for days, told in (
        ('closes: "2020-01-31"', "ours closed on 2020-01-31."),
        ('opens: "2126-01-01"', "ours opens on 2126-01-01."),
    ):
        text = "n_rows: 2\nnames: clip_{:02d}.wav\nclasses: {codes: [joy, anger]}\n"
        (tmp_path / "ours.yaml").write_text(text + days)
        settings = SubmitSettings(challenge=str(tmp_path / "ours.yaml"))
        assert run_submit(table, tmp_path / "a.csv", settings).remark == told


def test_poleval_gets_labels_alone_in_the_order_of_the_names(tmp_path):
    codes = find_challenge("poleval2025-task4").emotions.codes
    table = table_in(tmp_path, [0, 4], ("b.flac", "a.flac"), codes)
    (tmp_path / "names.txt").write_text("a.flac\nb.flac\n")
    settings = SubmitSettings(challenge="poleval2025-task4", names=tmp_path / "names.txt")
    report = run_submit(table, tmp_path / "out.tsv", settings)
    assert (tmp_path / "out.tsv").read_text() == "sadness\nanger\n"
    assert report.remark is None
    with pytest.raises(ValueError, match=r"must end in \.tsv"):
        run_submit(table, tmp_path / "out.csv", settings)


def test_quota_counts_its_window_its_challenge_and_its_task():
    entries = [entry(1), entry(2), entry(7), entry(8, task="attributes"), entry(8, "other")]
    # Seven days before noon of May 8 is noon of May 1, which is over.
    for per, left in (("day", 3), ("week", 1), ("challenge", 0)):
        challenge = Challenge("c", quota=Quota(count=3, per=per))
        assert count_left(challenge, entries, now=NOW) == left, per
    assert count_left(Challenge("c"), entries, now=NOW) is None
    challenge = Challenge("c", quota=Quota(count=3, per="week"))
    assert count_left(challenge, entries, task="attributes", now=NOW) == 2


def test_ledger_of_earlier_versions_is_counted(tmp_path):
    old = {"date": "2026-05-08T11:00:00+00:00", "file": "a.csv", "sha256": "1", "challenge": "c"}
    (tmp_path / "submissions.jsonl").write_text(json.dumps(old) + "\n")
    challenge = Challenge("c", quota=Quota(count=1, per="week"))
    assert count_left(challenge, read_ledger(tmp_path), now=NOW) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metric: f1", "metric"),
        ("names: a_{:02d}.wav", "names needs n_rows"),
        (
            "n_rows: 3\nnames: a.wav",
            r"names is 'a\.wav', expected a pattern such as 'clip_",
        ),
        ("n_rows: 3\nnames: a_{b}.wav", "expected a pattern"),
        ("classes: {codes: [a, a]}", "must be unique"),
        ("qota: {count: 1, per: day}", "qota is unknown, did you mean quota"),
        ("quota: {count: 0, per: year}", r"2 problems.*quota\.count.*quota\.per"),
    ],
)
def test_file_of_a_challenge_that_is_wrong_raises(tmp_path, text, expected):
    (tmp_path / "ours.yaml").write_text(text)
    with pytest.raises(ProblemsError, match=expected):
        find_challenge(str(tmp_path / "ours.yaml"))


def test_file_of_a_challenge_that_is_absent_raises(tmp_path):
    with pytest.raises(
        MissingFileError, match=r"no challenge .*nowhere\.yaml.* shipped ones: is2025"
    ):
        find_challenge(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(UnknownNameError, match=r"Did you mean 'is2025'"):
        find_challenge("is2026")
