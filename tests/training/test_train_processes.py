"""Two processes train what one does."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from two_processes import run_two

from abhinaya.config import dump_yaml
from abhinaya.nn.classifier_config import ClassifierConfig

MakeConfig = Callable[..., ClassifierConfig]
Train = Callable[..., Path]

# 34 rows in batches of 8: five steps per epoch, and the last batch is not full by itself.
SETTINGS = (
    "head.dropout=0",
    "spec_augment=false",
    "training.save_strategy=steps",
    "training.save_steps=2",
    "training.save_total_limit=9",
    "training.optim=sgd",
    "training.learning_rate=0.1",
    "training.max_grad_norm=0",
)
CHECKPOINTS = [*(f"checkpoint-{step}" for step in (2, 4, 6, 8, 10)), "best"]


@pytest.fixture
def launch(
    make_config: MakeConfig, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that trains with two processes, two rows in each at once."""

    def run(
        run_dir: Path, *overrides: str, python: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "config.yaml"
        file.write_text(dump_yaml(make_config(run_dir, *overrides)))
        command = ["-m", "abhinaya", "train", str(file), "--json"]
        command.append("training.per_device_train_batch_size=2")
        return run_two(tmp_path, *command, python=python)

    return run


def largest_difference(ours: Path, theirs: Path) -> float:
    """Over all weights of one checkpoint."""
    mine, yours = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert mine.keys() == yours.keys()
    return max(float((mine[name] - yours[name]).abs().max()) for name in mine)


def validation_losses(run: Path) -> list[float]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["eval_loss"]) for row in csv.DictReader(file) if row["eval_loss"]]


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_write_one_run(
    trained: Train,
    launch: Callable[..., subprocess.CompletedProcess[str]],
    wavlm_without_dropout: str,
    tmp_path: Path,
) -> None:
    settings = (*SETTINGS, f"base={wavlm_without_dropout}")
    alone, run = trained(*settings), tmp_path / "run"
    # With the interpreter itself: all other launches of trainings save its imports.
    done = launch(run, *settings, python=sys.executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"run": "tiny"') == 1
    assert done.stderr.count("tiny: 34 training clips") == 1
    names = {"config.yaml", "digest.json", "log.csv", "problems.csv", *CHECKPOINTS}
    assert {path.name for path in run.iterdir()} == names
    for name in CHECKPOINTS:
        assert largest_difference(run / name, alone / name) < 1e-5
    # Nine validation rows in batches of 16: each process gets five, and one of them twice.
    theirs, ours = validation_losses(run), validation_losses(alone)
    assert len(ours) == 5
    assert theirs == pytest.approx(ours, rel=1e-4)


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_killed(
    trained: Train,
    launch: Callable[..., subprocess.CompletedProcess[str]],
    wavlm_without_dropout: str,
    tmp_path: Path,
) -> None:
    settings = (*SETTINGS, f"base={wavlm_without_dropout}")
    alone, run = trained(*settings), tmp_path / "run"
    # As a kill in the middle of the second epoch leaves it.
    shutil.copytree(alone, run)
    for name in ("best", "checkpoint-8", "checkpoint-10"):
        shutil.rmtree(run / name)
    before = (run / "checkpoint-4" / "model.safetensors").stat().st_mtime_ns
    done = launch(run, *settings)
    assert done.returncode == 0, done.stderr
    assert (run / "checkpoint-4" / "model.safetensors").stat().st_mtime_ns == before
    for name in CHECKPOINTS:
        assert largest_difference(run / name, alone / name) < 1e-5


@pytest.mark.slow
def test_two_processes_decode_each_clip_once_before_training_and_once_to_standardise(
    make_config: MakeConfig, trained: Train, wavlm_without_dropout: str, tmp_path: Path
) -> None:
    """Each process standardised over all clips."""
    settings = (*SETTINGS, f"base={wavlm_without_dropout}", "freeze=encoder", "layer_weights=true")
    settings += ("standardize=true", "audio.train_crop=first", "inference.batch_size=4")
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    file.write_text(dump_yaml(make_config(run, *settings)))
    script = tmp_path / "counting.py"
    script.write_text(
        textwrap.dedent("""
            import os
            from pathlib import Path
            from abhinaya.cli import main
            from abhinaya.loading import clips
            from abhinaya.training.trainer import EmotionTrainer

            read, train, seen = clips.read_audio, EmotionTrainer.train, []

            def counting(path):
                seen.append(path.name)
                return read(path)

            def begin(self, **options):
                Path(f"seen-{os.environ['RANK']}.txt").write_text("\\n".join(seen))
                return train(self, **options)

            clips.read_audio, EmotionTrainer.train = counting, begin
            main()
        """)
    )
    command = ["train", str(file), "--json", "training.per_device_train_batch_size=2"]
    done = run_two(tmp_path, str(script), *command)
    assert done.returncode == 0, done.stderr
    seen = Counter(
        name for rank in range(2) for name in (tmp_path / f"seen-{rank}.txt").read_text().split()
    )
    # 34 clips to train on, and 9 for validation, which need no standardising.
    assert Counter(seen.values()) == {2: 34, 1: 9}
    for name in CHECKPOINTS:
        assert largest_difference(run / name, trained(*settings) / name) < 1e-5


@pytest.mark.slow
def test_features_of_all_clips_are_stored_though_one_process_looks_late(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """A process that listed the store when others had written to it took the wrong share."""
    run, store = tmp_path / "run", tmp_path / "store"
    file = tmp_path / "config.yaml"
    frozen = ("freeze=encoder", "audio.train_crop=first", "inference.batch_size=4")
    file.write_text(dump_yaml(make_config(run, *frozen, f"cache.dir={store}")))
    script = tmp_path / "late.py"
    script.write_text(
        textwrap.dedent("""
            import os, time
            from abhinaya.cli import main
            from abhinaya.loading.features import FeatureStore

            fill = FeatureStore.fill

            def late(*args, **options):
                if os.environ["RANK"] == "1":
                    time.sleep(3)
                return fill(*args, **options)

            FeatureStore.fill = late
            main()
        """)
    )
    done = run_two(tmp_path, str(script), "train", str(file), "--json")
    assert done.returncode == 0, done.stderr
    # 34 clips to train on and 9 for validation.
    assert len(list(store.rglob("*.npy"))) == 34 + 9
