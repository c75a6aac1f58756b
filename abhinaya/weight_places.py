"""Where the weights lie that a config names: found from anywhere, and after a move."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from abhinaya.config import MemberConfig, merge

__all__ = ["WEIGHT_KEYS", "locate_weights", "weight_names", "weights_from"]

WEIGHT_KEYS = ("base", "whisper", "beats", "salmonn", "qformer", "classifier")
"""Keys of members that name files or folders of published weights, or a hub id."""


def weight_names(content: Mapping[str, Any], keys: Collection[str] = WEIGHT_KEYS) -> dict[str, str]:
    """Return what names weights in a config, by dotted key.

    Args:
        content: keys and values.
        keys: those that do; in the mappings below it is `base` alone.
    """
    found: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            below = weight_names(value, ("base",))
            found |= {f"{key}.{dotted}": name for dotted, name in below.items()}
        elif key in keys and isinstance(value, str) and value:
            found[key] = value
    return found


def weights_from(folder: Path, config: MemberConfig) -> dict[str, str]:
    """Return how the weights that a config names are reached from a folder, by dotted key.

    So a folder that is moved together with them finds them again.
    """
    return {
        key: os.path.relpath(os.path.realpath(value), os.path.realpath(folder))
        for key, value in weight_names(config.model_dump(mode="json")).items()
        if os.path.exists(value)
    }


def locate_weights(
    content: Mapping[str, Any], folder: Path, places: Mapping[str, str]
) -> dict[str, Any]:
    """Return keys of a config with the places of weights in those of the working directory.

    Args:
        content: keys and values.
        folder: what `places` are relative to.
        places: where the weights may lie, by dotted key; the key stays as it is where nothing is
            there, or where it names the very same file or an absolute path that is there.
    """
    located = dict(content)
    for key, place in places.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found = os.path.normpath(Path(os.path.realpath(folder), place))
        if not (isinstance(value, str) and value and os.path.exists(found)):
            continue
        if os.path.exists(value) and (os.path.isabs(value) or os.path.samefile(value, found)):
            continue
        changes: Any = found
        for part in reversed(key.split(".")):
            changes = {part: changes}
        located = merge(located, changes)
    return located
