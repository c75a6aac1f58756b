"""Everything that people hand in by mistake, through the command line: a message, no traceback."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import yaml
from numpy.typing import NDArray

from abhinaya.cli import main
from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.demo.checkpoints.encoders import write_wavlm

RATE_HZ = 16_000


class Result(NamedTuple):
    code: int
    out: str
    err: str


RunCli = Callable[..., Result]


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> RunCli:
    """A function that runs one command as a user would; a traceback fails the test."""

    def run(*args: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        result = Result(int(caught.value.code or 0), *capsys.readouterr())
        assert "Traceback" not in result.out + result.err
        return result

    return run


def problems_in(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["utterance"]: row["reason"] for row in csv.DictReader(file)}


# ---- audio ----

UNUSABLE = {
    "absent.wav": "does not exist",
    "empty.wav": "is empty (0 bytes)",
    "truncated.wav": "is truncated: its header promises 16000 bytes of sound, the file holds",
    "text.wav": "cannot be decoded",
    "nan.wav": "holds NaN or infinite samples (2 of 8000)",
    "nothing.wav": "has no samples",
    "instant.wav": "is too short: 0.005 s is shorter than 0.025 s",
    "folder.wav": "is a folder",
}
"""What is wrong with each of the clips that nobody can hear."""

ODD = "six-channels.wav"
"""Unusual, but sound: 96 kHz and six channels."""


def noise(n_samples: int, seed: int) -> NDArray[np.float64]:
    return 0.1 * np.random.default_rng(seed).standard_normal(n_samples)


def write_bad_corpus(folder: Path) -> None:
    """Twelve good clips, one odd one and eight that cannot be used, with labels.csv."""
    good = [f"good{idx}.wav" for idx in range(12)]
    for idx, name in enumerate(good):
        soundfile.write(folder / name, noise(8_000, idx), RATE_HZ)
    soundfile.write(folder / ODD, noise(6 * 48_000, 99).reshape(-1, 6), 96_000)
    whole = (folder / "good0.wav").read_bytes()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "truncated.wav").write_bytes(whole[:5_000])
    (folder / "text.wav").write_text("This is not a sound.\n" * 50)
    broken = noise(8_000, 0).astype(np.float32)
    broken[[7, 77]] = np.nan, np.inf
    soundfile.write(folder / "nan.wav", broken, RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "nothing.wav", np.zeros(0), RATE_HZ)
    soundfile.write(folder / "instant.wav", noise(80, 0), RATE_HZ)
    (folder / "folder.wav").mkdir()
    labels = ("anger", "joy")
    lines = ["file,label,split"]
    lines += [f"{n},{labels[i % 2]},{'train' if i < 8 else 'dev'}" for i, n in enumerate(good)]
    lines += [f"{name},joy,train" for name in (ODD, *UNUSABLE)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in `source`, a tiny WavLM in `base`, and `config.yaml` to train it."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "source").mkdir()
    write_bad_corpus(folder / "source")
    write_wavlm(folder / "base", n_layers=1, n_features=16, n_conv_features=8)
    config = {
        "member": "wavlm",
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "data": {"manifest": str(folder / "corpus/manifest.parquet"), "validation": "dev"},
        "base": str(folder / "base"),
        "audio": {"max_audio_s": 0.5},
        "head": {"hidden": 8},
        "training": {"global_batch_size": 4, "num_train_epochs": 1, "use_cpu": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_bad_audio_is_listed_left_out_of_training_and_abstained_on(
    workplace: Path, run_cli: RunCli
) -> None:
    """From the corpus to the table: no clip is lost without a word, and none stops the others."""
    prepared = run_cli("prepare", "folder", workplace / "source", "--out", workplace / "corpus")
    assert prepared.code == 0, prepared.err
    seen = problems_in(workplace / "corpus" / "problems.csv")
    # The headers of three are in order: what they hold is seen because they are decoded.
    assert set(seen) == {ODD, *UNUSABLE}
    assert "the audio has 96000 Hz and 6 channels" in seen[ODD]
    assert "it is converted when it is read" in seen[ODD]
    # What is converted can be used.
    n_lines = len((workplace / "corpus" / "problems.csv").read_text().splitlines()) - 1
    assert f"{n_lines - 1} problems and 1 note in " in prepared.out

    trained = run_cli("train", workplace / "config.yaml")
    assert trained.code == 0, trained.err
    left_out = problems_in(workplace / "run" / "problems.csv")
    assert set(left_out) == set(UNUSABLE)

    out = workplace / "tiny.parquet"
    manifest = workplace / "corpus" / "manifest.parquet"
    predicted = run_cli(
        "predict", workplace / "run", "--manifest", manifest, "--select", "all", "--out", out
    )
    assert predicted.code == 0, predicted.err
    counted, listed = predicted.out.splitlines()[-2:]
    assert counted.split() == ["tiny", "all", "21", "8"]
    assert listed == f"8 problems in {workplace / 'tiny.problems.csv'}"
    table = read_table(out)
    abstained = problems_in(workplace / "tiny.problems.csv")
    assert set(abstained) == set(UNUSABLE)
    for utterance, label, reason in zip(table.utterances, table.labels, table.reasons, strict=True):
        assert (label == ABSTAIN) == (utterance in UNUSABLE), utterance
        assert reason == abstained.get(utterance)
        for listed in (left_out, abstained):
            assert UNUSABLE.get(utterance, "") in listed.get(utterance, ""), utterance


def test_no_audio_at_all_stops_before_the_work(workplace: Path, run_cli: RunCli) -> None:
    """With a root where none of the files is, one message says so, not one per clip."""
    (workplace / "nowhere").mkdir(exist_ok=True)
    manifest = workplace / "manifest.csv"
    manifest.write_text("utterance,audio,label,split\na.wav,a.wav,A,train\nb.wav,b.wav,H,dev\n")
    result = run_cli(
        "train",
        workplace / "config.yaml",
        f"data.manifest={manifest}",
        f"data.audio_root={workplace / 'nowhere'}",
        f"run_dir={workplace / 'run2'}",
    )
    assert result.code == 1
    assert "No row of the selection 'train' can be used for 'tiny'" in result.err
    assert "a.wav does not exist" in result.err
    assert "data.audio_root" in result.err


# ---- manifests and configs ----


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (
            "utterance,label\na.wav,A\na.wav,H\nb.wav,Q\n",
            [
                "2 problems in",
                "1 utterances appear more than once: 'a.wav'",
                "1 rows have an unknown label, such as 'Q (b.wav)', expected one of A C D F H N",
            ],
        ),
        ("file,label\na.wav,A\n", ["the column 'utterance' is missing, got ['file', 'label']"]),
        ("utterance,duration_s\na.wav,long\n", ["duration_s", "'long'"]),
        ("utterance,label\n,A\n", ["utterance"]),
        ("", ["cannot be read as csv"]),
        (None, ["There is no manifest", "abhinaya prepare"]),
    ],
    ids=["repeated and unknown", "column", "number", "unnamed", "empty", "absent"],
)
def test_wrong_manifest_exits_1(
    workplace: Path, run_cli: RunCli, tmp_path: Path, content: str | None, messages: list[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    if content is not None:
        manifest.write_text(content)
    result = run_cli("train", workplace / "config.yaml", f"data.manifest={manifest}")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    for message in [*messages, str(manifest)]:
        assert message in result.err


def test_wrong_config_exits_1_with_all_mistakes(workplace: Path, run_cli: RunCli) -> None:
    result = run_cli(
        "train",
        workplace / "config.yaml",
        "head.dropuot=0.1",
        "seed=many",
        "training.learnin_rate=1",
        "audio=3",
    )
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: 4 problems in {workplace / 'config.yaml'}: ")
    for message in (
        "head.dropuot is unknown, did you mean head.dropout?",
        "seed is 'many'",
        "learnin_rate is unknown to TrainingArguments. Did you mean 'learning_rate'",
        "audio is 3",
    ):
        assert message in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("member: [wavlm\n", "it is not YAML"),
        ("- member\n", "it holds a list, expected keys with values"),
        ("member: wavml\n", "Unknown member 'wavml'. Did you mean 'wavlm'?"),
        ("name: x\n", "member is missing, expected one of"),
    ],
)
def test_wrong_config_file_exits_1(
    run_cli: RunCli, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    result = run_cli("train", tmp_path / "config.yaml")
    assert result.code == 1
    assert message in result.err


def test_base_weights_that_are_not_there_exit_1(
    workplace: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    run_cli("prepare", "folder", workplace / "source", "--out", tmp_path / "corpus")
    manifest = f"data.manifest={tmp_path / 'corpus' / 'manifest.parquet'}"
    run_dir = f"run_dir={tmp_path / 'run'}"
    result = run_cli("train", workplace / "config.yaml", manifest, run_dir, "base=/none/here")
    assert result.code == 1
    assert "base '/none/here' cannot be loaded" in result.err


# ---- tables, votes, submissions ----


@pytest.fixture
def save_table(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a table of one letter per utterance u0, u1, ..."""

    def save(name: str, letters: str, emotions: EmotionSet = MSP_PODCAST) -> Path:
        labels = np.array(emotions.encode(letters))
        utterances = tuple(f"u{idx}" for idx in range(len(letters)))
        path = tmp_path / f"{name}.parquet"
        write_table(PredictionTable(name, emotions, utterances, labels), path)
        return path

    return save


def test_tables_of_two_class_orders_exit_1(
    run_cli: RunCli, save_table: Callable[..., Path], tmp_path: Path
) -> None:
    tables = [save_table("p", "AH"), save_table("q", "AH", EmotionSet.from_codes("HANSUCDF"))]
    truth = tmp_path / "truth.csv"
    truth.write_text("utterance,label\nu0,A\nu1,H\n")
    for command in (
        ("vote", *tables, "--out", tmp_path / "v.parquet"),
        ("score", *tables, "--manifest", truth),
        ("submit", tables[1], "--challenge", "is2025", "--out", tmp_path / "s.csv"),
    ):
        result = run_cli(*command)
        assert (result.code, result.out) == (1, ""), command
        assert "has the class order H A N S U C D F, but" in result.err
        assert "A C D F H N S U" in result.err
    assert not (tmp_path / "v.parquet").exists()
    assert not (tmp_path / "s.csv").exists()


def test_tables_of_other_utterances_exit_1(
    run_cli: RunCli, save_table: Callable[..., Path], tmp_path: Path
) -> None:
    tables = [save_table("p", "AHN"), save_table("q", "AH")]
    result = run_cli("vote", *tables, "--out", tmp_path / "v.parquet")
    assert result.code == 1
    assert "Table 'q' does not cover the same utterances as 'p': it lacks 1: 'u2'" in result.err


def test_vote_without_members_is_a_wrong_command_line(run_cli: RunCli, tmp_path: Path) -> None:
    result = run_cli("vote", "--out", tmp_path / "v.parquet")
    assert result.code == 2
    assert "TABLE" in result.err


@pytest.mark.parametrize("command", ["vote", "score", "submit"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"no parquet", "cannot be read as Parquet"),
        ("t.csv", b"FileName,Emotion\nu0,A\n", "the column 'EmoClass' is missing"),
        ("t.csv", b"FileName,EmoClass\nu0,A,B\n", "1 rows do not have 2 cells like the header"),
        ("t.csv", b"\xff\xfe\x00", "UTF-8"),
        ("t.xlsx", b"PK", "must end in .parquet or .csv"),
        ("none.parquet", None, "There is no table"),
    ],
)
def test_file_that_is_no_table_exits_1(
    run_cli: RunCli, tmp_path: Path, command: str, name: str, content: bytes | None, message: str
) -> None:
    path, names = tmp_path / name, tmp_path / "names.txt"
    names.write_text("u0\n")
    if content is not None:
        path.write_bytes(content)
    options = {
        "vote": ("--out", tmp_path / "v.parquet"),
        "score": ("--manifest", tmp_path / "truth.csv"),
        "submit": ("--names", names, "--out", tmp_path / "s.csv"),
    }
    (tmp_path / "truth.csv").write_text("FileName,EmoClass\nu0,A\n")
    result = run_cli(command, path, *options[command])
    assert (result.code, result.out) == (1, "")
    assert message in result.err


def test_submission_with_wrong_rows_exits_1_with_all_of_them(
    run_cli: RunCli, tmp_path: Path
) -> None:
    rows = ["u0,A", "u1,H", "u1,N", "u2,O", "u3,X", "u4,", "u9,S"]
    (tmp_path / "t.csv").write_text("\n".join(["FileName,EmoClass", *rows]) + "\n")
    (tmp_path / "names.txt").write_text("".join(f"u{idx}\n" for idx in range(6)))
    out = tmp_path / "s.csv"
    result = run_cli("submit", tmp_path / "t.csv", "--names", tmp_path / "names.txt", "--out", out)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: 5 problems in {tmp_path / 't.csv'}: ")
    for message in (
        "1 of 6 expected names are missing: 'u5'",
        "1 names are not expected: 'u9'",
        "1 names appear more than once: 'u1 (2 times)'",
        "1 rows have no label: 'u4'",
        "2 rows have a label that cannot be predicted: 'O (u2)', 'X (u3)'",
    ):
        assert message in result.err
    assert not out.exists()
