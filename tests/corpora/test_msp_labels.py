from __future__ import annotations

import json
from pathlib import Path

import pytest

from abhinaya.corpora.msp_labels import (
    read_consensus,
    read_partitions,
    read_secondary,
    read_votes,
    split_or_none,
)
from abhinaya.errors import BadValueError, ProblemsError

# Clip a: two raters say angry, one says other. Clip b: one says happy.
# Order of the counts: A C D F H N S U, then O.
EXPECTED = {"a.wav": [2, 0, 0, 0, 0, 0, 0, 0, 1], "b.wav": [0, 0, 0, 0, 1, 0, 0, 0, 0]}

DIALECTS = {
    "release 1.6": (
        "FileName,Workers,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom\n"
        'a.wav,WORKER1,Angry,"Angry,Annoyed",6,2,5\n'
        "a.wav,WORKER2,Angry,Angry,6,2,5\n"
        'a.wav,WORKER3,Other-bored,"Other,Sad",3,3,3\n'
        "b.wav,WORKER1,Happy,Happy,5,6,4\n"
    ),
    "release 1.12": (
        "FileName,EmoDetail\n"
        'a.wav,"WORKER00000001; Angry; Angry,Annoyed; A:6.000000; V:2.000000; D:5.000000;"\n'
        "a.wav,WORKER00000002; Angry; A:6.000000; V:2.000000; D:5.000000;\n"
        'a.wav,"WORKER00000003; Other-so; bored; Other,Sad; A:3.000000; V:3.000000; D:3.000000;"\n'
        'b.wav,"WORKER00000001; Happy; ; A:5.000000; V:6.000000; D:4.000000;"\n'
    ),
    "release 2.0": (
        "worker,FileName,EmoAct,EmoClass_Major\n"
        "1,a.wav,6,Angry\n2,a.wav,6, angry \n3,a.wav,3,OTHER\n1,b.wav,5,Happy\n"
    ),
}


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS.keys())
def test_votes_of_every_csv_dialect(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels_detailed.csv").write_text(text, encoding="utf-8-sig")
    assert read_votes(tmp_path / "labels_detailed.csv") == (EXPECTED, [])


def test_votes_of_json(tmp_path: Path) -> None:
    entries = {
        "a.wav": {
            "WORKER1": {"EmoClass_Major": "Angry", "EmoClass_Second": "Angry,Annoyed"},
            "WORKER2": {"EmoClass_Major": "Angry"},
            "WORKER3": {"EmoClass_Major": "Other-bored"},
        },
        "b.wav": {"WORKER1": {"EmoClass_Major": "Happy"}},
    }
    (tmp_path / "labels_detailed.json").write_text(json.dumps(entries))
    assert read_votes(tmp_path / "labels_detailed.json") == (EXPECTED, [])


def test_every_primary_emotion_has_its_class(tmp_path: Path) -> None:
    names = "Angry Contempt Disgust Fear Happy Neutral Sad Surprise Other".split()
    lines = [f"{idx}.wav,1,{name}" for idx, name in enumerate(names)]
    text = "\n".join(["FileName,worker,EmoClass_Major", *lines])
    (tmp_path / "d.csv").write_text(text)
    votes, problems = read_votes(tmp_path / "d.csv")
    assert [votes[f"{idx}.wav"].index(1) for idx in range(9)] == list(range(9))
    assert problems == []


def test_answers_outside_the_classes_are_counted_as_other_and_totalled(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(
        "FileName,worker,EmoClass_Major\na.wav,1,Dissapointed\na.wav,2,Dissapointed\na.wav,3,Joy\n"
    )
    votes, (problem,) = read_votes(tmp_path / "d.csv")
    assert votes == {"a.wav": [0, 0, 0, 0, 0, 0, 0, 0, 3]}
    assert problem.utterance == "d.csv"
    expected = "3 votes are for none of the classes: 'Dissapointed' (2), 'Joy' (1); counted as O"
    assert problem.reason == expected


def test_many_answers_outside_the_classes_are_shortened(tmp_path: Path) -> None:
    lines = "\n".join(f"a.wav,1,mood {idx:02d}" for idx in range(12))
    (tmp_path / "d.csv").write_text("FileName,worker,EmoClass_Major\n" + lines)
    _, (problem,) = read_votes(tmp_path / "d.csv")
    assert problem.reason.startswith("12 votes are for none of the classes: 'mood 00' (1)")
    assert problem.reason.endswith("'mood 09' (1) and 2 more answers; counted as O")


def test_unreadable_lines_are_counted_and_spoil_no_other(tmp_path: Path) -> None:
    lines = [
        "FileName,EmoDetail",
        'a.wav,"WORKER1; Angry; A:1.0; V:1.0; D:1.0;',  # no closing quote: still readable
        "a.wav",  # no detail
        "a.wav,WORKER2",  # no emotion
        "a.wav,WORKER3; A:1.0; V:1.0; D:1.0;",  # no emotion
        ",WORKER4; Sad; Sad; A:1.0; V:1.0; D:1.0;",  # no clip
        f"a.wav,{'x' * 200_000}",  # more than a CSV cell holds
        "",
        "a.wav,WORKER5; Angry; Angry; A:1.0; V:1.0; D:1.0;",
        'a.wav,"WORKER6; Other-caf\udce9; Other; A:3.0; V:3.0; D:3.0;"',  # not UTF-8
        "b.wav,WORKER1; Happy; Happy; A:1.0; V:1.0; D:1.0;",
    ]
    text = "\n".join(lines).encode("utf-8", errors="surrogateescape")
    (tmp_path / "d.csv").write_bytes(text)
    votes, (problem,) = read_votes(tmp_path / "d.csv")
    assert votes == EXPECTED
    assert problem.reason.startswith(
        "5 of 9 annotations hold no primary emotion, such as 'line 3: a.wav', "
        "'line 4: a.wav,WORKER2', "
    )
    assert problem.reason.endswith("and 2 more; left out of the votes")


def test_unreadable_json_entries_are_counted(tmp_path: Path) -> None:
    entries = {
        "a.wav": {"W1": {"EmoClass_Major": "Sad"}, "W2": {}, "W3": {"EmoClass_Major": " "}},
        "b.wav": "Sad",
    }
    (tmp_path / "d.json").write_text(json.dumps(entries))
    votes, (problem,) = read_votes(tmp_path / "d.json")
    assert votes == {"a.wav": [0, 0, 0, 0, 0, 0, 1, 0, 0]}
    assert problem.reason == (
        "3 of 4 annotations hold no primary emotion, such as 'a.wav W2', 'a.wav W3', 'b.wav'; "
        "left out of the votes"
    )


def test_json_list_of_votes_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("[1]")
    votes, (problem,) = read_votes(tmp_path / "d.json")
    assert votes == {}
    assert problem.reason.startswith("1 of 1 annotations hold no primary emotion")


@pytest.mark.parametrize(
    ("text", "shown"), [("file,votes\n", "file, votes"), ("", "empty")], ids=["other", "empty"]
)
def test_unknown_dialect_is_a_problem_without_votes(tmp_path: Path, text: str, shown: str) -> None:
    (tmp_path / "d.csv").write_text(text)
    votes, (problem,) = read_votes(tmp_path / "d.csv")
    assert votes == {}
    assert problem.reason == (
        f"the header is {shown}, expected FileName and either EmoDetail or EmoClass_Major; "
        "no votes were read"
    )


def test_votes_of_broken_json_raise(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(BadValueError, match=r"d\.json' cannot be read as JSON"):
        read_votes(tmp_path / "d.json")


def test_consensus_columns_may_be_few_and_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(" filename ,EMOCLASS,Comment\n a.wav ,N,x\n")
    frame = read_consensus(tmp_path / "c.csv")
    assert frame.to_dict("records") == [{"utterance": "a.wav", "label": "N"}]


def test_consensus_json_numbers_become_text(tmp_path: Path) -> None:
    entries = {
        "a.wav": {"EmoClass": "N", "SpkrID": 12, "EmoAct": 4.5},
        "b.wav": {"EmoClass": "A", "SpkrID": "Unknown", "Gender": "Female"},
        "c.wav": {"EmoClass": "A", "SpkrID": None},
    }
    (tmp_path / "c.json").write_text(json.dumps(entries))
    frame = read_consensus(tmp_path / "c.json")
    assert frame["speaker"].fillna("").tolist() == ["12", "", ""]
    assert frame["gender"].fillna("").tolist() == ["", "female", ""]
    assert frame["arousal"].tolist() == ["4.5", "", ""]


def test_consensus_without_columns_raises_with_near_match(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("FileNames,Class\na.wav,N\n")
    expected = (
        r"2 problems in .*'FileName' is missing, got filenames, class.*'filenames'.*'EmoClass'"
    )
    with pytest.raises(ProblemsError, match=expected):
        read_consensus(tmp_path / "c.csv")


@pytest.mark.parametrize("text", ["[]", '{"a.wav": "N"}'])
def test_consensus_json_of_another_kind_raises(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadValueError, match="is not a label file, expected a dictionary of dict"):
        read_consensus(tmp_path / "c.json")


def test_partitions_tolerate_blanks_and_case(tmp_path: Path) -> None:
    (tmp_path / "Partitions.txt").write_text("Train; a.wav\n\nTEST2;b.wav;\nValidation ; c.wav \n")
    splits, problems = read_partitions(tmp_path / "Partitions.txt")
    assert splits == {"a.wav": "train", "b.wav": "test2", "c.wav": "development"}
    assert problems == []


def test_partition_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "Partition.txt").write_text("Train; a.wav\nTrian; b.wav\nTrain\n")
    splits, (problem,) = read_partitions(tmp_path / "Partition.txt")
    assert splits == {"a.wav": "train"}
    assert problem.utterance == "Partition.txt"
    assert problem.reason == (
        "2 of 3 lines are not like 'Train; FILE.wav', such as 'Trian; b.wav', 'Train'; left out"
    )


@pytest.mark.parametrize(
    ("word", "split"),
    [("Train", "train"), ("Development", "development"), ("Test3", "test3"), ("", None)],
)
def test_split_or_none(word: str, split: str | None) -> None:
    assert split_or_none(word) == split


SECOND = {"a.wav": "Amused:0.5 Happy:1", "b.wav": "Disappointed:1 Other:1"}


@pytest.mark.parametrize(
    "text",
    [
        # The third rater of a.wav left the field empty, and does not count.
        "FileName,EmoDetail\n"
        'a.wav,"W1; Happy; Happy,Amused; A:4.0; V:5.0; D:4.0;"\n'
        "a.wav,W2; Happy; happy; A:4.0; V:5.0; D:4.0;\n"
        "a.wav,W3; Sad; A:4.0; V:5.0; D:4.0;\n"
        'b.wav,"W1; Sad; Dissapointed, Joy,Other-x; A:4.0; V:5.0; D:4.0;"\n',
        "FileName,worker,EmoClass_Major,EmoClass_Second\n"
        'a.wav,W1,Happy,"Happy,Amused"\na.wav,W2,Happy,happy\na.wav,W3,Sad,\n'
        'b.wav,W1,Sad,"Dissapointed, Joy,Other-x"\n',
    ],
    ids=["detail", "columns"],
)
def test_secondary_emotions_are_shares_of_the_raters_who_gave_any(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "d.csv").write_text(text)
    shares, (problem,) = read_secondary(tmp_path / "d.csv")
    assert shares == SECOND
    assert problem.reason == ("1 secondary emotions are none of the list: 'Joy'; counted as Other")


def test_secondary_emotions_of_json(tmp_path: Path) -> None:
    happy = {"EmoClass_Major": "Happy", "EmoClass_Second": "Happy"}
    entries = {
        "a.wav": {"W1": happy | {"EmoClass_Second": "Amused,Happy"}, "W2": happy, "W3": {}},
        "b.wav": {"W1": happy | {"EmoClass_Second": "Disappointed,Other"}},
        "c.wav": {"W1": {"EmoClass_Major": "Happy"}},
    }
    (tmp_path / "d.json").write_text(json.dumps(entries))
    assert read_secondary(tmp_path / "d.json") == (SECOND, [])
