"""Runs in Python: a trained member labels files, folders and arrays."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.errors import BadValueError, shorten

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from abhinaya.data.predictions import PredictionTable

    Recording = str | Path | NDArray[np.float32] | NDArray[np.int16]

__all__ = ["Run", "load"]


class Run:
    """A member that labels recordings; its model stays loaded from call to call.

    Attributes:
        source: run directory, or the config of a member with nothing to train.
        classes: code of each class -> its name, in the order of the probabilities.
    """

    def __init__(self, source: str | Path, overrides: tuple[str, ...] = ()) -> None:
        from abhinaya.member_config import find_predictor
        from abhinaya.pipeline.stages.recordings import classes_of

        _, resolved = find_predictor(source, overrides, Path("recordings"))
        emotions = classes_of(resolved)
        self.source = str(source)
        self.classes: dict[str, str] = dict(zip(emotions.codes, emotions.names, strict=True))
        self._overrides = overrides
        self._kept: dict[str, object] = {}

    def __repr__(self) -> str:
        classes = ", ".join(
            code if code == name else f"{code} {name}" for code, name in self.classes.items()
        )
        return f"<abhinaya run {self.source!r}: {classes}>"

    def predict(
        self,
        recordings: Recording | Iterable[Recording],
        *,
        sample_rate: int | None = None,
        with_embedding: bool = False,
    ) -> PredictionTable:
        """Label recordings, as `abhinaya predict RUN RECORDING ...` does.

        Args:
            recordings: an audio file, a folder of them, samples of shape (S,) or (S, channels); or
                several of these.
            sample_rate: of the samples, in Hz; files know theirs.
            with_embedding: also keep the input of the head's last linear layer.

        Returns:
            One row per recording; what could not be heard has no label, and a reason.

        Raises:
            MissingFileError: if a file is not there, or a folder holds no audio.
            BadValueError: if there is nothing to label, samples come without their rate or in
                another shape, or the member reads transcripts.
        """
        from abhinaya.inference.loaded import keep_loaded
        from abhinaya.pipeline.stages.recordings import run_recordings

        is_one = isinstance(recordings, str | Path) or hasattr(recordings, "shape")
        given: Any = [recordings] if is_one else recordings
        several = list(given)
        if not several:
            raise BadValueError("No recordings were given. Name audio files, folders or arrays.")
        with tempfile.TemporaryDirectory(prefix="abhinaya-") as scratch:
            files = [
                str(one) if isinstance(one, str | Path) else _write_samples(one, name, sample_rate)
                for number, one in enumerate(several, start=1)
                for name in [Path(scratch, f"array-{number}")]
            ]
            with _quiet_libraries(), keep_loaded(self._kept):
                return run_recordings(
                    self.source, files, overrides=self._overrides, with_embedding=with_embedding
                )


def load(run: str | Path, *overrides: str) -> Run:
    """Load a run to label recordings with.

    Args:
        run: run directory, or the config of a member with nothing to train.
        overrides: `key=value` changes of its config, such as `inference.batch_size=4`.

    Raises:
        MissingFileError: if there is no such run.
    """
    return Run(run, overrides)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep bars and warnings of libraries away: what matters of them is an error or a reason."""
    from transformers.utils import logging as module

    theirs: Any = module  # its functions have no types
    verbosity, has_bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(verbosity)
        if has_bars:
            theirs.enable_progress_bar()


def _write_samples(samples: Any, file: Path, sample_rate: int | None) -> str:
    """Write an array as a sound file, whose path is returned."""
    import numpy as np
    import soundfile

    if not hasattr(samples, "shape"):
        raise BadValueError(
            f"{shorten(samples)} is no recording, expected a file's path or an array of samples."
        )
    array = np.asarray(samples)
    if sample_rate is None:
        raise BadValueError(
            "An array does not say its sample rate. Pass it, such as sample_rate=16000."
        )
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] < array.shape[1]):
        raise BadValueError(
            f"The samples have shape {array.shape}, expected (S,) or (S, channels). "
            "Pass array.T if the channels come first, and one array per recording."
        )
    if array.dtype not in (np.int16, np.int32, np.float32, np.float64):
        raise BadValueError(
            f"The samples are {array.dtype}, expected floats in [-1, 1], int16 or int32."
        )
    soundfile.write(file, array, sample_rate, format="WAV", subtype="FLOAT")
    return str(file)
