"""T2 classifiers that Abhinaya's public code saved: adapters and head in one flat file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.errors import CheckpointError, list_some

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["read_classifier"]

_PREFIX = "llama."

_LORA_KEY = re.compile(
    r"llama\.base_model\.model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])(?:\.default)?\.weight"
)


def read_classifier(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a classifier in the public layout, under the names of our classifier.

    Raises:
        MissingFileError: if there is no such file.
        CheckpointError: if it is damaged, wants to run code, or holds something else.
    """
    import torch

    from abhinaya.nn.checkpoint import HEAD_NAMES
    from abhinaya.nn.weight_files import read_pickle

    content = read_pickle(file)
    if not isinstance(content, dict) or not any(str(key).startswith(_PREFIX) for key in content):
        raise CheckpointError(
            f"{str(file)!r} has no keys that begin with {_PREFIX!r}, expected a T2 classifier "
            "saved by Abhinaya's public code. Correct classifier."
        )
    state: dict[str, Tensor] = {}
    unknown = []
    for key, value in ((str(key), value) for key, value in content.items()):
        lora = _LORA_KEY.fullmatch(key)
        module, _, rest = key.partition(".")
        if not isinstance(value, torch.Tensor):
            unknown.append(key)
        elif lora:
            name = f"backbone.encoder.{lora['module']}.lora_{lora['matrix']}.default.weight"
            state[name] = value
        elif module in HEAD_NAMES:
            state[f"{HEAD_NAMES[module]}.{rest}"] = value
        else:
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(content)} entries of {str(file)!r} are neither adapters of a "
            f"language model nor part of a head: {list_some(sorted(unknown))}. It was made by "
            "other code; correct classifier."
        )
    return state
