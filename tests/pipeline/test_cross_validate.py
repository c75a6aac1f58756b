"""Every row is labelled by the run that has not heard its speaker, in one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from abhinaya.cli import main
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import make_manifest, read_manifest, write_manifest
from abhinaya.data.predictions import read_table
from abhinaya.demo.checkpoints.encoders import write_distilhubert

RunCli = Callable[..., Any]
FOUR = EmotionSet(("A", "H", "N", "S"), ("angry", "happy", "neutral", "sad"), ("O",))


def write_corpus(
    folder: Path, speakers: list[str | None], emotions: EmotionSet = FOUR, prefix: str = ""
) -> Path:
    """Four short clips of each speaker, one per class; two speakers make a session."""
    rng = np.random.default_rng(len(speakers))
    rows = []
    for number, speaker in enumerate(speakers):
        for idx in range(4):
            name = f"{prefix}{number}-{idx}.wav"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, 0.1 * rng.standard_normal(3_200), 16_000)
            rows.append(
                {
                    "utterance": name,
                    "audio": name,
                    "label": emotions.codes[idx],
                    "speaker": speaker,
                    "session": f"Ses0{number // 2 + 1}",
                    "arousal": 1.5 + idx,
                }
            )
    write_manifest(make_manifest(rows, emotions, folder), folder / "manifest.parquet")
    return folder / "manifest.parquet"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    write_distilhubert(folder, n_features=16, n_conv_features=8)
    return str(folder)


@pytest.fixture
def config(tmp_path: Path, base: str) -> Path:
    """A tiny distilhubert that is trained for two steps and keeps the last checkpoint."""
    content = {
        "member": "distilhubert",
        "name": "tiny",
        "run_dir": str(tmp_path / "runs"),
        "base": base,
        "data": {"manifest": str(tmp_path / "corpus" / "manifest.parquet"), "validation": None},
        "loss": {"name": "focal"},
        "attributes": {"arousal": 0.5},
        "head": {"hidden": 4},
        "training": {"global_batch_size": 4, "max_steps": 2, "use_cpu": True},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def cross_validate(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """A function that runs the command as a user would; code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        out = ("--out", str(tmp_path / "table.parquet"))
        with pytest.raises(SystemExit) as caught:
            main(["cross-validate", str(config), *map(str, args), *out])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


CrossValidate = Callable[..., tuple[int, str, str]]


def selections_of(run: Path) -> tuple[list[str], list[str] | None]:
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    return data["train"], data["validation"]


def test_one_table_whose_rows_know_their_fold(
    cross_validate: CrossValidate, tmp_path: Path
) -> None:
    """Speakers a to c; of d nobody knows who it is, so nothing is learned from it."""
    write_corpus(tmp_path / "corpus", ["a", "b", "c", None])
    other = write_corpus(tmp_path / "other", ["a", "x"], prefix="other")
    code, out, err = cross_validate("--leave-one-out", "--also", other, "--json")
    assert code == 0, err
    table = read_table(tmp_path / "table.parquet")
    assert table.name == "tiny"
    assert table.utterances == tuple(f"{n}-{idx}.wav" for n in range(4) for idx in range(4))
    assert table.fold == tuple(
        f"fold-{n + 1}" if n < 3 else None for n in range(4) for _ in range(4)
    )
    assert table.take([11, 4]).fold == ("fold-3", "fold-2")
    assert table.trained_on is not None
    assert not table.trained_on.any()
    assert (table.labels[12:] == -1).all()
    assert set(table.reasons[12:]) == {
        "its speaker is unknown or has no labelled row, so it is in no fold"
    }
    assert "4 rows abstain: its speaker is unknown" in err
    for number in (1, 2, 3):
        train, validation = selections_of(tmp_path / "runs" / f"fold-{number}")
        assert train == [*(f"fold-{n}" for n in (1, 2, 3) if n != number), "also"]
        assert validation is None
        single = read_table(tmp_path / "runs" / f"fold-{number}.parquet")
        own = [idx for idx, fold in enumerate(table.fold) if fold == f"fold-{number}"]
        assert single.probs is not None
        assert table.probs is not None
        np.testing.assert_array_equal(table.probs[own], single.probs)
        assert table.attributes is not None
        assert np.isfinite(table.attributes[own, 0]).all()
        np.testing.assert_array_equal(table.attributes[own], single.attributes)
    splits = read_manifest(tmp_path / "runs" / "manifest.parquet").rows["split"]
    assert splits.value_counts(dropna=False).to_dict() == {
        "fold-1": 4, "fold-2": 4, "fold-3": 4, "also": 8, np.nan: 4,
    }  # fmt: skip

    found = json.loads(out)
    assert [entry["held_out"] for entry in found["folds"]] == [["a"], ["b"], ["c"]]
    f1 = [entry["macro_f1"] for entry in found["folds"]]
    assert found["mean"]["macro_f1"] == pytest.approx(np.mean(f1))
    assert found["variance"]["macro_f1"] == pytest.approx(np.var(f1, ddof=1))
    right = (table.labels == np.tile([0, 1, 2, 3], 4))[:12]
    assert found["all"] == {**found["all"], "n_utts": 12, "accuracy": pytest.approx(right.mean())}
    assert sum(map(sum, found["arousal"]["counts"])) == 12
    assert found["valence"]["groups"] == ["positive", "neutral", "negative"]


@pytest.mark.slow
def test_one_fold_is_what_train_and_predict_make_of_it(
    cross_validate: CrossValidate, config: Path, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", list("abcd"))
    assert cross_validate("--folds", 2)[0] == 0
    folds = tmp_path / "runs"
    by_hand = ("name=tiny", f"run_dir={tmp_path / 'alone'}", "data.train=fold-1")
    manifest = folds / "manifest.parquet"
    for args in (
        ("train", config, *by_hand, f"data.manifest={manifest}"),
        ("predict", tmp_path / "alone", "--manifest", manifest, "--select", "fold-2", "--out",
         tmp_path / "alone.parquet"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        assert caught.value.code == 0
    weights = "best/model.safetensors"
    assert (tmp_path / "alone" / weights).read_bytes() == (folds / "fold-2" / weights).read_bytes()
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "alone.parquet"), pd.read_parquet(folds / "fold-2.parquet")
    )


@pytest.mark.slow
def test_killed_cross_validation_goes_on_fold_by_fold(
    cross_validate: CrossValidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from abhinaya.training.trainer import EmotionTrainer

    write_corpus(tmp_path / "corpus", list("abc"))
    trained: list[str] = []
    original = EmotionTrainer.train

    def train(self: EmotionTrainer, *args: Any, **kwargs: Any) -> Any:
        trained.append(Path(str(self.args.output_dir)).name)
        if trained == ["fold-1", "fold-2"]:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(EmotionTrainer, "train", train)
    assert cross_validate("--folds", 3)[0] == 130
    assert not (tmp_path / "table.parquet").exists()
    assert cross_validate("--folds", 3)[0] == 0
    assert trained == ["fold-1", "fold-2", "fold-2", "fold-3"]
    first = (tmp_path / "table.parquet").read_bytes()
    assert cross_validate("--folds", 3)[0] == 0
    assert len(trained) == 4
    assert (tmp_path / "table.parquet").read_bytes() == first


@pytest.mark.slow
def test_sessions_are_held_out_and_the_next_one_chooses_the_checkpoint(
    cross_validate: CrossValidate, tmp_path: Path
) -> None:
    """The loss that follows the validation rows; two speakers per session."""
    write_corpus(tmp_path / "corpus", list("abcdef"))
    given = (
        "--by",
        "session",
        "--leave-one-out",
        "data.validation=any",
        "loss.name=adaptive-focal",
    )
    code, out, err = cross_validate(*given)
    assert code == 0, err
    assert "Ses01" in out
    assert "true arousal in rows" in out
    assert selections_of(tmp_path / "runs" / "fold-1") == (["fold-3"], ["fold-2"])
    assert selections_of(tmp_path / "runs" / "fold-3") == (["fold-2"], ["fold-1"])


@pytest.mark.parametrize(
    ("speakers", "args", "message"),
    [
        (
            "a",
            "--leave-one-out",
            "1 known values of 'speaker' ('a'), expected at least 2: one for",
        ),
        ("abc", "--folds 4", "3 known values of 'speaker' ('a', 'b', 'c'), expected at least 4"),
        ("--", "--folds 2", "have 0 known values of 'speaker', expected at least 2"),
        ("abc", "--folds 2 --by scene", "Unknown column of"),
        ("aba", "--folds 2 --by session", "1 speakers of"),
        ("abc", "--folds 2 data.validation=any", "2 folds leave nothing to train on"),
        ("abc", "--folds 2 --select test", "Unknown split or subset 'test'"),
    ],
    ids=str,
)
def test_folds_that_cannot_be_made_are_refused_in_one_line(
    cross_validate: CrossValidate, tmp_path: Path, speakers: str, args: str, message: str
) -> None:
    known = [None if speaker == "-" else speaker for speaker in speakers]
    write_corpus(tmp_path / "corpus", known)
    code, _, err = cross_validate(*args.split())
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("args", [(), ("--folds", "3", "--leave-one-out")])
def test_number_of_folds_is_said_once(
    cross_validate: CrossValidate, tmp_path: Path, args: tuple[str, ...]
) -> None:
    code, _, err = cross_validate(*args)
    assert code == 2
    assert "give either --folds N or --leave-one-out" in " ".join(err.replace("│", " ").split())


def test_second_corpus_with_other_classes_or_the_same_clips_is_refused(
    cross_validate: CrossValidate, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", list("abc"))
    other = write_corpus(tmp_path / "other", ["x"], MSP_PODCAST, prefix="other")
    code, _, err = cross_validate("--folds", 2, "--also", other)
    assert code == 1
    assert "The second corpus" in err
    assert "has the class order A C D F H N S U, but" in err
    again = write_corpus(tmp_path / "again", ["x"])
    code, _, err = cross_validate("--folds", 2, "--also", again)
    assert code == 1
    assert "4 utterances appear more than once" in err
    assert len(err.strip().splitlines()) == 1


def test_folder_of_other_folds_is_refused(cross_validate: CrossValidate, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", list("abcd"))
    write_corpus(tmp_path / "runs", ["a"])
    code, _, err = cross_validate("--folds", 2)
    assert code == 1
    assert "holds a cross-validation with other folds or another corpus. Set run_dir" in err


def test_member_with_nothing_to_train_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    manifest = write_corpus(tmp_path / "corpus", list("abc"))
    args = ["members/llama-70b-zero-shot.yaml", f"data.manifest={manifest}", "--folds", "2"]
    with pytest.raises(SystemExit) as caught:
        main(["cross-validate", *args, "--out", str(tmp_path / "table.parquet")])
    assert caught.value.code == 1
    assert "has nothing to train, so there is nothing to cross-validate" in capsys.readouterr().err
