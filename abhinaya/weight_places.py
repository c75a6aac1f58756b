"""Where the weights lie that a config names: found from anywhere, and after a move."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abhinaya.config import MemberConfig

__all__ = ["WEIGHT_KEYS", "locate_weights", "weights_from"]

WEIGHT_KEYS = ("base", "whisper", "beats", "salmonn", "qformer", "classifier")
"""Keys of members that name files or folders of published weights, or a hub id."""


def weights_from(folder: Path, config: MemberConfig) -> dict[str, str]:
    """Return how the weights that a config names are reached from a folder, by key.

    So a folder that is moved together with them finds them again.
    """
    values = {key: getattr(config, key, None) for key in WEIGHT_KEYS}
    return {
        key: os.path.relpath(os.path.realpath(value), os.path.realpath(folder))
        for key, value in values.items()
        if value and os.path.exists(value)
    }


def locate_weights(
    content: Mapping[str, Any], folder: Path, places: Mapping[str, str]
) -> dict[str, Any]:
    """Return keys of a config with the places of weights in those of the working directory.

    Args:
        content: keys and values.
        folder: what `places` are relative to.
        places: where the weights may lie, by key; the key stays as it is where nothing is there, or
            where it names the very same file or an absolute path that is there.
    """
    located = dict(content)
    for key, place in places.items():
        value, found = content.get(key), os.path.normpath(Path(os.path.realpath(folder), place))
        if not os.path.exists(found) or not isinstance(value, str):
            continue
        if os.path.exists(value) and (os.path.isabs(value) or os.path.samefile(value, found)):
            continue
        located[key] = found
    return located
