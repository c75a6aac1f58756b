from __future__ import annotations

import re

import pytest

FOREIGN = "path;emotion;prob_A; who\n u0 ;Angry;0,25;x\nu1.wav; anger ;;y\nu2;S;1;\n"


def test_convert_does_all_that_it_is_asked_for_and_nothing_else(run_cli, tmp_path):
    table, out = tmp_path / "theirs.csv", tmp_path / "ours.csv"
    table.write_text(FOREIGN)
    arguments = ["convert", table, "--out", out, "--separator", ";"]
    arguments += ["--columns", "file=path,label=emotion"]
    asked = ["--ending", ".wav", "--words", "--labels", "anger=A"]
    result = run_cli(*arguments, *asked)
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1].split() == ["3", "2", "2"]
    assert out.read_text() == (
        "FileName,EmoClass,prob_A,who\nu0.wav,A,0.25,x\nu1.wav,A,,y\nu2.wav,S,1,\n"
    )
    assert run_cli(*arguments).code == 0
    assert out.read_text() == (
        "FileName,EmoClass,prob_A,who\nu0,Angry,0.25,x\nu1.wav,anger,,y\nu2,S,1,\n"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--words"], "1 labels have no code: 'anger'; .*--labels anger=A"),
        (["--columns", "file=pth"], "Unknown column of .*'pth'. Did you mean 'path'"),
        (["--columns", "name=path"], "Unknown column of ours 'name'"),
        (["--columns", "path"], "--columns 'path' must be OURS=THEIRS"),
        (["--labels", "angry"], "--labels 'angry' must be THEIRS=OURS"),
        (["--separator", ";;"], "separator is ';;', expected one sign"),
        (["--separator", ","], "column 'FileName' stands there 0 times"),
        (["--columns", "file=path,label=path"], "column 'EmoClass' stands there 0 times|once"),
        (["--out", "x.parquet"], "must end in .csv"),
    ],
)
def test_convert_wrong_input_is_one_line(run_cli, tmp_path, options, expected):
    table = tmp_path / "theirs.csv"
    table.write_text(FOREIGN)
    arguments = ["convert", table, "--out", tmp_path / "ours.csv", "--separator", ";"]
    columns = [] if "--columns" in options else ["--columns", "file=path,label=emotion"]
    if options == ["--separator", ","]:
        columns = []
    result = run_cli(*arguments, *columns, *options)
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert re.search(expected, result.err), result.err
    assert not (tmp_path / "ours.csv").exists()


def test_convert_row_of_another_length_raises_with_its_line(run_cli, tmp_path):
    table = tmp_path / "theirs.csv"
    table.write_text("FileName,EmoClass\n\nu0,A\nu1,A,B\n")
    result = run_cli("convert", table, "--out", tmp_path / "ours.csv")
    assert "1 rows do not have 2 cells: line 4" in result.err


SHAPES = {
    "semicolons": ("FileName;EmoClass\nu0.wav;A\nu1.wav;H\n", "--separator ';'"),
    "tabs": ("FileName\tEmoClass\nu0.wav\tA\nu1.wav\tH\n", "--separator tab"),
    "other columns": ("path,emotion\nu0.wav,A\nu1.wav,H\n", "--columns file=path,label=emotion"),
    "both": ("wav;Class\nu0.wav;A\nu1.wav;H\n", "--separator ';' --columns file=wav,label=Class"),
    "blanks": ("FileName,EmoClass\nu0.wav, A\nu1.wav,H \n", "blanks around them"),
    "blanks in names": ("FileName,EmoClass\n u0.wav,A\nu1.wav ,H\n", "blanks around them"),
    "words": ("FileName,EmoClass\nu0.wav,Angry\nu1.wav,happy\n", "--words"),
    "no ending": ("FileName,EmoClass\nu0,A\nu1,H\n", "--ending .wav"),
}


@pytest.mark.parametrize("command", ["vote", "submit", "score", "truth"])
@pytest.mark.parametrize("shape", SHAPES)
def test_common_shapes_of_other_tools_are_named_in_the_error(run_cli, tmp_path, shape, command):
    text, expected = SHAPES[shape]
    theirs, ours = tmp_path / "theirs.csv", tmp_path / "ours.csv"
    theirs.write_text(text)
    ours.write_text("FileName,EmoClass\nu0.wav,A\nu1.wav,H\n")
    arguments = {
        "vote": ["vote", ours, theirs, "--out", tmp_path / "vote.parquet"],
        "submit": ["submit", theirs, "--names", ours, "--out", tmp_path / "out.csv"],
        "score": ["score", theirs, "--manifest", ours],
        "truth": ["score", ours, "--manifest", theirs],
    }[command]
    result = run_cli(*arguments)
    assert result.code == 1
    assert expected in result.err
    assert len(result.err.splitlines()) == 1
