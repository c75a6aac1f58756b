"""Whenever a run is killed, its folder looks in the end as if it had not been."""

from __future__ import annotations

import pytest
from kills import count_changes, killed_at, listing

from abhinaya.files import atomic_folder, write_text
from abhinaya.inference import sharding
from abhinaya.member import PredictRequest
from abhinaya.registry import load_member


def write_twice(root):
    """A file and a folder, each written and then replaced."""
    for text in ("one", "two"):
        write_text(root / "file.txt", text)
        with atomic_folder(root / "folder") as folder:
            (folder / "a.txt").write_text(text)


def test_files_and_folders_killed_at_any_change_leave_nothing_behind(tmp_path):
    with count_changes(tmp_path) as counted:
        write_twice(tmp_path / "undisturbed")
    for number in range(1, counted[0] + 1):
        root = tmp_path / str(number)
        with killed_at(root, number):
            write_twice(root)
        write_twice(root)
        assert listing(root) == listing(tmp_path / "undisturbed"), number
        assert (root / "folder" / "a.txt").read_text() == "two"


@pytest.mark.slow
def test_prediction_killed_at_any_change_ends_with_the_same_files(
    trained, manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "CHUNK_SIZE", 4)
    run = trained("training.max_steps=1")

    def predict(folder):
        request = PredictRequest(manifest, ("development",), folder / "table.parquet")
        load_member("wavlm").predict(run, request)
        return (folder / "table.parquet").read_bytes()

    with count_changes(tmp_path) as counted:
        expected = predict(tmp_path / "undisturbed")
    for number in range(1, counted[0] + 1):
        root = tmp_path / str(number)
        with killed_at(root, number):
            predict(root)
        assert predict(root) == expected
        assert listing(root) == listing(tmp_path / "undisturbed"), number


@pytest.mark.slow
def test_training_killed_at_many_changes_ends_with_the_same_files(train, tmp_path):
    settings = ("training.num_train_epochs=3", "training.global_batch_size=18")
    with count_changes(tmp_path) as counted:
        undisturbed = train(*settings, run_dir=tmp_path / "undisturbed" / "run")
    weights = (undisturbed / "best" / "model.safetensors").read_bytes()
    for number in range(1, counted[0] + 1, 1 + counted[0] // 12):
        root = tmp_path / str(number)
        with killed_at(root, number):
            train(*settings, run_dir=root / "run")
        run = train(*settings, run_dir=root / "run")
        assert listing(root) == listing(tmp_path / "undisturbed"), number
        assert (run / "best" / "model.safetensors").read_bytes() == weights
