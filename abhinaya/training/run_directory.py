"""The folder of one training run: what stands in it, and whether to start, resume or refuse."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.files import read_json_object, write_json, write_text

__all__ = ["RunDirectory", "is_complete"]

_logger = logging.getLogger(__name__)

_STEP = re.compile(r"checkpoint-\d+")


class RunDirectory:
    """`config.yaml`, `checkpoint-N/`, `best/`, `log.csv`, `problems.csv`.

    Args:
        path: the folder.
        digest: hash of everything that decides the result; a run is resumed only under the same
            one.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self.digest = digest
        self.best = path / "best"

    def check(self) -> None:
        """Refuse to mix two trainings in one folder.

        Raises:
            BadValueError: if the folder holds a run of another digest, or files of something else.
        """
        stored = self._stored()
        if stored is None:
            names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            # A kill may leave a hidden temporary file before anything else is written.
            others = [name for name in names if not name.startswith(".")]
            if others:
                raise BadValueError(
                    f"{str(self.path)!r} holds files but no run of abhinaya: "
                    f"{', '.join(sorted(others)[:5])}. "
                    "Name an empty folder (run_dir, --out)."
                )
        # A run that never got to a checkpoint has nothing to lose, so it may start anew.
        elif stored.get("digest") != self.digest and (self.is_finished or self._checkpoints()):
            raise BadValueError(
                f"{str(self.path)!r} holds a run with another config or corpus "
                f"(digest {stored.get('digest')}, now {self.digest}). "
                "Name another folder (run_dir, --out), or delete this one."
            )

    def begin(self, config_yaml: str) -> None:
        """Write config and digest; remove checkpoints that a kill left half written.

        Of the newest ones those that cannot be read are removed too, which is told: the training
        goes on from the one before.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "digest.json", {"digest": self.digest})
        write_text(self.path / "config.yaml", config_yaml)
        for folder in self._checkpoints():
            if not is_complete(folder):
                shutil.rmtree(folder)
        if self.is_finished:
            return
        while (last := self.last_checkpoint()) is not None and (reason := _find_damage(last)):
            shutil.rmtree(last)
            before = self.last_checkpoint()
            _logger.warning(
                "%s is removed, because it cannot be resumed: %s The training goes on from %s",
                *(last, reason, before.name if before else "the beginning"),
            )

    @property
    def is_finished(self) -> bool:
        """Return True once `best/` is there; it is written last, as a whole."""
        return self.best.is_dir()

    def last_checkpoint(self) -> Path | None:
        """Find the newest complete checkpoint of the Trainer."""
        return next(reversed(self.complete_checkpoints()), None)

    def complete_checkpoints(self) -> list[Path]:
        """Return all complete checkpoints of the Trainer, the oldest first."""
        return sorted(filter(is_complete, self._checkpoints()), key=_step)

    def _stored(self) -> dict[str, Any] | None:
        file = self.path / "digest.json"
        if not file.is_file():
            return None
        return read_json_object(file)

    def _checkpoints(self) -> list[Path]:
        # The names of the Trainer alone; a user may keep a copy under another one.
        return [folder for folder in self.path.glob("checkpoint-*") if _STEP.fullmatch(folder.name)]


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def is_complete(folder: Path) -> bool:
    """Tell if a folder is whole: the Trainer writes its state last."""
    try:
        read_json_object(folder / "trainer_state.json")
    except (FileNotFoundError, BadValueError):
        return False
    return True


def _find_damage(folder: Path) -> str | None:
    """Return why the Trainer could not load what lies beside a checkpoint's weights, if so."""
    from transformers import TrainerState, trainer_pt_utils

    from abhinaya.nn.weight_files import open_safetensors, read_pickle

    state = read_json_object(folder / "trainer_state.json")
    for key, default in vars(TrainerState()).items():
        kinds = (int, float) if isinstance(default, int | float) else type(default)
        if default is not None and not isinstance(state.get(key, default), kinds):
            return f"{key} of trainer_state.json is damaged."
    # The Trainer loads both or, without a word, neither. DeepSpeed has other files.
    missing = [name for name in ("optimizer", "scheduler") if not any(folder.glob(f"{name}*"))]
    if len(missing) == 1 and not any(folder.glob("global_step*")):
        return f"{missing[0]}.pt is missing."
    safe_globals: Any = trainer_pt_utils.safe_globals  # it has no types
    names = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
    files = [file for name in names for file in sorted(folder.glob(name))]
    for file in files:
        try:
            with safe_globals():  # numpy's, which the state of its random generator needs
                read_pickle(file)
        except CheckpointError:
            return f"{file.name} is damaged, or would run code."
    weights = folder / "model.safetensors"
    if weights.is_file():
        try:
            with open_safetensors(weights):
                pass
        except CheckpointError:
            return f"{weights.name} is damaged."
    return None
