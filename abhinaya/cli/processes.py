"""What the processes of `accelerate launch` let through to the screen."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any, TextIO

from abhinaya.processes import is_main_process

__all__ = ["quiet_libraries", "set_up_logging"]


class _ToScreen(logging.StreamHandler[TextIO]):
    """Writes to what stderr is by then: while a bar is shown, lines appear above it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up_logging(level: int = logging.INFO) -> None:
    """Show our own messages from a level on, those of libraries from WARNING on, on stderr."""
    handlers = [_ToScreen()]
    logging.basicConfig(handlers=handlers, format="%(message)s", level=logging.WARNING)
    for package in ("abhinaya", "members", "ensembling"):
        logging.getLogger(package).setLevel(level)
    # It warns of every machine without a GPU, and peft imports it wherever it is installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Keep libraries' bars and reports off the screen; in all processes but the main one also ours.

    What matters of them reaches the user as an error or as a line of our own.
    """
    if "transformers" in sys.modules:
        from transformers.utils import logging as module

        transformers_logging: Any = module  # its functions have no types
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    # What it reads when it is imported: that takes seconds, and no command begins with them.
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # WavLM of transformers (5.23) mixes mask types; torch says so at every layer.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    if not is_main_process():
        logging.disable(logging.WARNING)
