from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ForPreTraining,
    WavLMConfig,
    WavLMForCTC,
    WavLMModel,
)

from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.errors import CheckpointError, MissingFileError
from members.wavlm.model import WavLMBackbone, load_encoder

TINY: dict[str, Any] = {
    "conv_dim": (16,) * 7,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_wavlm(tmp_path, n_layers=1, n_features=32, n_conv_features=16)
    return tmp_path


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors by others, or remove those that are null."""
    file = folder / "model.safetensors"
    weights = load_file(file) | changes
    save_file({k: v for k, v in weights.items() if v is not None}, file, {"format": "pt"})


def test_load_encoder_older_names_of_weight_norm_fit(folder: Path) -> None:
    """The published WavLM is a pytorch_model.bin with `weight_g` and `weight_v`."""
    expected = load_encoder(str(folder)).state_dict()
    old = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in load_file(folder / "model.safetensors").items()
    }
    assert "encoder.pos_conv_embed.conv.weight_g" in old
    (folder / "model.safetensors").unlink()
    torch.save(old, folder / "pytorch_model.bin")
    loaded = load_encoder(str(folder)).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_load_encoder_half_precision_file_becomes_float32(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, **{key: value.half() for key, value in weights.items()})
    assert {p.dtype for p in load_encoder(str(folder)).parameters()} == {torch.float32}


def test_load_encoder_without_mask_embedding_loads(folder: Path) -> None:
    rewrite(folder, masked_spec_embed=None)
    assert hasattr(load_encoder(str(folder)), "masked_spec_embed")


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: Wav2Vec2ForPreTraining(
            Wav2Vec2Config(**TINY, codevector_dim=16, proj_codevector_dim=16)
        ),
        lambda: WavLMForCTC(WavLMConfig(**TINY, vocab_size=8)),
        lambda: HubertModel(HubertConfig(**TINY)),
    ],
    ids=["wav2vec2-pretraining", "wavlm-ctc", "hubert"],
)
def test_load_encoder_takes_relatives_and_ignores_their_heads(
    tmp_path: Path, make_model: Callable[[], Any]
) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    theirs = model.base_model.state_dict()
    assert encoder.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())
    states, _ = WavLMBackbone(encoder).encode(
        torch.zeros(1, 4000), torch.ones(1, 4000, dtype=torch.bool)
    )
    assert states.shape == (1, 1, 12, 32)


def test_load_encoder_missing_unexpected_and_misshapen_keys_are_all_named(folder: Path) -> None:
    rewrite(
        folder,
        **{
            "encoder.layers.0.attention.k_proj.bias": None,
            "encoder.layers.5.surprise": torch.zeros(1),
            "encoder.layer_norm.weight": torch.zeros(3),
        },
    )
    with pytest.raises(CheckpointError) as caught:
        load_encoder(str(folder))
    n_keys = len(WavLMModel(WavLMConfig.from_pretrained(folder)).state_dict())
    message = str(caught.value)
    assert message.startswith(f"3 of {n_keys} keys do not fit between {str(folder)!r}")
    assert "missing: 'encoder.layers.0.attention.k_proj.bias'" in message
    assert "unexpected: 'encoder.layers.5.surprise'" in message
    assert "of another shape: 'encoder.layer_norm.weight'" in message


def test_load_encoder_another_kind_of_model_raises(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="type 'bert', expected one of hubert, wav2vec2"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_load_encoder_no_model_there_raises(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"cannot be loaded: .* or a hub id such as"):
        load_encoder(str(tmp_path / name))


def test_load_encoder_config_without_weights_raises(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"config.json and weights"):
        load_encoder(str(folder))


class Loud:
    """A pickle of it calls print when it is loaded."""

    def __reduce__(self) -> Any:
        return print, ("ran",)


@pytest.mark.parametrize("damage", ["code", "noise", "cut"])
def test_load_encoder_pickle_that_cannot_be_read_raises(
    folder: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save({"weight": Loud() if damage == "code" else torch.zeros(99)}, file)
    if damage != "code":
        file.write_bytes(b"noise" * 99 if damage == "noise" else file.read_bytes()[:400])
    with pytest.raises(
        (CheckpointError, MissingFileError), match=r"pytorch_model|cannot be"
    ) as err:
        load_encoder(str(folder))
    assert "\n" not in str(err.value)
    assert "ran" not in capsys.readouterr().out
