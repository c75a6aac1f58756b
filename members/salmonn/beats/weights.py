"""BEATs checkpoints in the layout in which they are published, every key accounted for.

A file of `torch.save` with `cfg`, the sizes, and `model`, the tensors. Fine-tuned files hold a
classifier of sound events too (`predictor`), which nobody here needs: it is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.errors import CheckpointError, list_some

if TYPE_CHECKING:
    from torch import Tensor

    from members.salmonn.beats.model import Beats, BeatsConfig

__all__ = ["load_beats", "read_beats_shapes"]

_TABLE = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
_POS_CONV = "encoder.pos_conv.0."


def load_beats(path: str | Path) -> Beats:
    """Load the encoder of a published file, float32, in evaluation mode.

    All layers share one table of position biases. The file repeats it for every layer, but it is
    needed for the first one only.

    Args:
        path: a file such as `BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt`.

    Raises:
        MissingFileError: if there is no such file.
        CheckpointError: if it cannot be read, is no BEATs encoder, or its tensors do not fit its
            sizes.
    """
    import torch

    from abhinaya.nn.weight_files import check_fit
    from members.salmonn.beats.model import Beats

    cfg, stored = _read(Path(path))
    config = _config(cfg, path)
    # Weights that are replaced at once need no memory and no random numbers.
    with torch.device("meta"):
        model = Beats(config)
    weights = {key: value for key, value in stored.items() if not _is_unused(key)}
    tables = {key: weights.pop(key) for key in _repeated_tables(config) if key in weights}
    check_fit(_published_shapes(model), weights, what="a BEATs encoder of its cfg", where=str(path))
    _check_tables(weights[_TABLE.format(0)], tables, path)
    # Copies, because the file's own tensors are mapped from disk.
    weights = {key: value.to(torch.float32, copy=True) for key, value in weights.items()}
    model.load_state_dict(_our_tensors(weights), assign=True)
    return model.eval()


def read_beats_shapes(path: str | Path) -> tuple[BeatsConfig, dict[str, tuple[int, ...]]]:
    """Return sizes of a published file, and the shape of each tensor; load no weights.

    Raises:
        MissingFileError: if there is no such file.
        CheckpointError: if it cannot be read, or is no BEATs encoder.
    """
    cfg, stored = _read(Path(path))
    return _config(cfg, path), {key: tuple(value.shape) for key, value in stored.items()}


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    import torch

    from abhinaya.nn.weight_files import read_pickle

    content = read_pickle(file)
    parts = content if isinstance(content, dict) else {}
    cfg, model = parts.get("cfg"), parts.get("model")
    if not isinstance(cfg, dict) or not isinstance(model, dict):
        raise CheckpointError(
            f"{str(file)!r} has no 'cfg' and 'model', expected a published BEATs checkpoint such "
            "as BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt. Correct the path."
        )
    if "quant_n" in cfg or any(str(key).startswith("quantize") for key in model):
        raise CheckpointError(
            f"{str(file)!r} is a BEATs tokenizer, which labels sounds for pre-training; expected "
            "the encoder. Take the checkpoint of the same iteration without 'Tokenizer' in its "
            "name."
        )
    odd = [key for key, value in model.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise CheckpointError(
            f"{len(odd)} of {len(model)} entries under 'model' in {str(file)!r} are no tensors: "
            f"{list_some(odd)}. Take a published BEATs checkpoint."
        )
    return cfg, model


def _config(cfg: dict[str, Any], path: str | Path) -> BeatsConfig:
    from members.salmonn.beats.model import BeatsConfig

    try:
        return BeatsConfig.from_dict(cfg)
    except CheckpointError as err:
        raise CheckpointError(f"{str(path)!r} cannot be used. {err}") from err


def _is_unused(key: str) -> bool:
    return key.startswith("predictor.")


def _repeated_tables(config: BeatsConfig) -> list[str]:
    return [_TABLE.format(layer) for layer in range(1, config.encoder_layers)]


def _published_shapes(model: Beats) -> dict[str, tuple[int, ...]]:
    """Return names and shapes that a file has to have for this model."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    shapes[_TABLE.format(0)] = shapes.pop("encoder.relative_attention_bias.weight")
    shapes[_POS_CONV + "bias"] = shapes.pop("encoder.pos_conv.bias")
    direction = shapes.pop("encoder.pos_conv.weight")
    shapes[_POS_CONV + "weight_v"] = direction
    shapes[_POS_CONV + "weight_g"] = (1, 1, direction[2])
    return shapes


def _our_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors under the names of `Beats`."""
    ours = dict(weights)
    ours["encoder.relative_attention_bias.weight"] = ours.pop(_TABLE.format(0))
    ours["encoder.pos_conv.bias"] = ours.pop(_POS_CONV + "bias")
    direction, length = ours.pop(_POS_CONV + "weight_v"), ours.pop(_POS_CONV + "weight_g")
    # Weight norm: each tap of the kernel has its own length.
    norm = direction.square().sum(dim=(0, 1), keepdim=True).sqrt()
    ours["encoder.pos_conv.weight"] = length * direction / norm
    return ours


def _check_tables(first: Tensor, others: dict[str, Tensor], path: str | Path) -> None:
    different = [key for key, table in others.items() if not first.equal(table)]
    if different:
        raise CheckpointError(
            f"{len(different)} tables of position biases in {str(path)!r} differ from that of the "
            f"first layer: {list_some(different)}. All layers of BEATs share one; download the "
            "file again."
        )
