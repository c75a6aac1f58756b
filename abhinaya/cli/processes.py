"""What every process of `accelerate launch` does alike, and what only the main one prints."""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["is_main_process", "set_up_logging", "silence_others"]


def is_main_process() -> bool:
    """True in the only process, or in the first one of a launch."""
    return os.environ.get("RANK", "0") == "0"


def set_up_logging() -> None:
    """Our own messages from INFO on, those of libraries from WARNING on, plain on stderr."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    for package in ("abhinaya", "members", "ensembling"):
        logging.getLogger(package).setLevel(logging.INFO)


def silence_others() -> None:
    """Let only the main process of a launch log."""
    if not is_main_process():
        logging.disable(logging.WARNING)
