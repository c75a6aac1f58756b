"""Where the shipped configs and prompts are, in a checkout and in an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

from abhinaya.errors import MissingFileError, did_you_mean

__all__ = ["configs_dir", "find_config", "prompts_dir"]

# The folders stand beside the package. Looking them up by import name instead could find a folder
# `configs` in the working directory of the user.
_ROOT = Path(__file__).resolve().parent.parent


def configs_dir() -> Path:
    """Return the folder of shipped YAML configs."""
    return _ROOT / "configs"


def prompts_dir() -> Path:
    """Return the folder of shipped prompts."""
    return _ROOT / "prompts"


def find_config(name: str | Path) -> Path:
    """Return path of a config: a file as given, else a shipped one such as `members/wavlm.yaml`.

    A leading `configs/` is allowed for shipped files, so that the same command works in a checkout
    and beside an installed wheel.

    Raises:
        MissingFileError: if neither exists; the message lists the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    shipped = configs_dir().joinpath(*parts)
    if not path.is_absolute() and shipped.is_file():
        return shipped
    known = sorted(str(p.relative_to(configs_dir())) for p in configs_dir().rglob("*.yaml"))
    raise MissingFileError(
        f"There is no config {str(name)!r}.{did_you_mean('/'.join(parts), known)} "
        f"Give the path of a YAML file, or one of the shipped ones: {', '.join(known)}."
    )
