from __future__ import annotations

from training_runs import make_config, manifest_file, wavlm

__all__ = ["make_config", "manifest_file", "wavlm"]
