"""The doctor accounts for the keys of a language model exactly as loading does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.doctor.findings import Findings
from abhinaya.doctor.weights import check_language_model
from abhinaya.errors import CheckpointError
from abhinaya.nn.language_model import load_language_model

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """A tiny model without its weights, and these."""
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    state: State = {}
    for file in folder.glob("*.bin"):
        state |= torch.load(file, weights_only=True)
        file.unlink()
    (folder / "pytorch_model.bin.index.json").unlink()
    return folder, state


def with_key(name: str) -> Callable[[State], State]:
    return lambda state: state | {name: torch.zeros(2)}


def with_prefix(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


CHANGES: dict[str, Callable[[State], State]] = {
    "as published": dict,
    "DataParallel": with_prefix("module."),
    "torch.compile": with_prefix("_orig_mod."),
    "bare": lambda state: {key.removeprefix("model."): value for key, value in state.items()},
    "without head": lambda state: {k: v for k, v in state.items() if k != "lm_head.weight"},
    "without a layer's part": lambda state: {k: v for k, v in state.items() if "1.mlp.up" not in k},
    "head with bias": with_key("lm_head.bias"),
    "another head": with_key("embed_out.weight"),
    "rotary rates": with_key("model.layers.0.self_attn.rotary_emb.inv_freq"),
    "position ids": with_key("model.position_ids"),
    "something else": with_key("score.weight"),
}


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_doctor_accepts_what_loads_and_nothing_else(
    llama: tuple[Path, State], name: str, head: bool, tmp_path: Path
) -> None:
    folder, state = llama
    shutil.copytree(folder, tmp_path / "llama")
    changed = {key: value.clone() for key, value in CHANGES[name](state).items()}
    save_file(changed, tmp_path / "llama" / "model.safetensors", metadata={"format": "pt"})
    problem = None
    try:
        load_language_model(str(tmp_path / "llama"), head=head)
    except CheckpointError as err:
        problem = str(err)
    findings = Findings()
    check_language_model(str(tmp_path / "llama"), findings, head=head)
    (found,) = findings
    assert (found.result == "problem") == (problem is not None), (found.details, problem)
