from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.nn.weight_files import (
    check_fit,
    open_safetensors,
    read_pickle,
    read_shapes,
    read_tensors,
    weight_files,
)

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.zeros(4)}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_read_pickle_gives_tensors_and_containers(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "weights.pt"
    content = {"cfg": {"layers": [1, "x", None]}, "model": WEIGHTS}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    read = read_pickle(file)
    assert read["cfg"] == content["cfg"]
    assert torch.equal(read["model"]["a"], WEIGHTS["a"])


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("kind", ["zip", "older", "plain"])
def test_read_pickle_that_wants_to_run_code_raises_and_runs_nothing(
    tmp_path: Path, kind: str
) -> None:
    file, trace = tmp_path / "evil.pt", tmp_path / "trace"
    if kind == "plain":
        file.write_bytes(pickle.dumps({"model": Evil(trace)}, protocol=2))
    else:
        content = {"model": Evil(trace)}
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(
        CheckpointError,
        match=r"evil.pt' would run code when it is loaded, so it was not: it asks for \w+[\w.]+\.",
    ):
        read_pickle(file)
    assert not trace.exists()
    torch.load(file, weights_only=False) if kind != "plain" else pickle.loads(file.read_bytes())
    assert trace.exists()  # it would have


def test_read_pickle_with_an_object_of_another_library_raises(tmp_path: Path) -> None:
    """Many published files hold the options of their training script."""
    torch.save({"args": argparse.Namespace(lr=1), "model": WEIGHTS}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"asks for argparse.Namespace\. Take the weights"):
        read_pickle(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02}q\x00("])
def test_read_pickle_of_something_else_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    message = r"broken.pt' cannot be read as weights \([^()]{3,80}\)\. Download it again"
    with pytest.raises(CheckpointError, match=message) as caught:
        read_pickle(tmp_path / "broken.pt")
    assert "weights_only" not in str(caught.value)  # torch's own advice


def test_read_pickle_cut_in_the_middle_raises(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "half.pt")
    whole = (tmp_path / "half.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"half.pt' cannot be read as weights"):
        read_pickle(tmp_path / "half.pt")


@pytest.mark.parametrize("content", ["text", [1], {"a": [1]}, {1: torch.zeros(1)}])
def test_read_tensors_of_other_things_raises(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=r"w.bin' holds other things than tensors with names"):
        read_tensors(tmp_path / "w.bin")


def test_read_pickle_that_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no file '.*none.pt'\. Correct the path"):
        read_pickle(tmp_path / "none.pt")


def write_shards(folder: Path, suffix: str) -> None:
    """`a` in the first of two files, `b.c` in the second."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = {f"{stem}-0000{n}-of-00002.{suffix}": key for n, key in ((1, "a"), (2, "b.c"))}
    for name, key in names.items():
        part = {key: WEIGHTS[key]}
        if suffix == "safetensors":
            save_file(part, folder / name)
        else:
            torch.save(part, folder / name)
    index = {"weight_map": {key: name for name, key in names.items()}}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [True, False])
def test_read_shapes_of_every_layout(tmp_path: Path, suffix: str, sharded: bool) -> None:
    if sharded:
        write_shards(tmp_path, suffix)
    elif suffix == "safetensors":
        save_file(WEIGHTS, tmp_path / "model.safetensors")
    else:
        torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    assert read_shapes(tmp_path) == {"a": (2, 3), "b.c": (4,)}


def test_weight_files_prefer_safetensors(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "other.safetensors", "model.safetensors"):
        (tmp_path / name).touch()
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    assert weight_files(tmp_path) == [tmp_path / "pytorch_model.bin"]
    (tmp_path / "pytorch_model.bin").unlink()
    assert weight_files(tmp_path) == [tmp_path / "other.safetensors"]


def test_weight_files_missing_raise(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"has no weights, expected \*\.safetensors or"):
        weight_files(tmp_path)
    write_shards(tmp_path, "bin")
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    message = r"has no pytorch_model-00002-of-00002\.bin, which its index names"
    with pytest.raises(MissingFileError, match=message):
        weight_files(tmp_path)


def test_damaged_safetensors_raise(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-4])
    message = r"model.safetensors' cannot be read as weights \(.+\)\. Download it again"
    with pytest.raises(CheckpointError, match=message):
        read_shapes(tmp_path)
    with pytest.raises(CheckpointError, match=message), open_safetensors(weight_files(tmp_path)[0]):
        pass


def test_check_fit_names_everything_that_does_not_fit() -> None:
    expected = {"a": (2, 3), "b": (4,), "c": (1,), "d": torch.zeros(2)}
    got = {"a": (3, 2), "c": torch.zeros(1), "d": (5,), "e": (1,), "f": (1,)}
    with pytest.raises(CheckpointError) as caught:
        check_fit(expected, got, what="a head of two layers", where="w.pt")
    assert str(caught.value) == (
        "5 of 4 keys do not fit between 'w.pt' and a head of two layers: missing: 'b'; unexpected: "
        "'e', 'f'; size mismatch for a: (3, 2) against (2, 3); size mismatch for d: (5,) against "
        "(2,). Correct the path, or download the model again."
    )


def test_check_fit_of_the_same_keys_and_shapes_is_silent() -> None:
    check_fit(WEIGHTS, {"b.c": (4,), "a": torch.ones(2, 3)}, what="it", where="there")
