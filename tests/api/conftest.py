from __future__ import annotations

from untrained_runs import bases, corpus, make_config, make_run, manifest

__all__ = ["bases", "corpus", "make_config", "make_run", "manifest"]
