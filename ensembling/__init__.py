"""Fusion of prediction tables: votes, rules learned from data. numpy, no torch.

`LEARNED` names the rules that `abhinaya fit` knows; it imports nothing.
"""

__all__ = ["LEARNED"]

LEARNED = {
    "adaptation": "ensembling.speakers.adaptation:ADAPTATION",
    "log-odds": "ensembling.learned.log_odds:LOG_ODDS",
    "stacking": "ensembling.learned.stacking:STACKING",
    "temperature": "ensembling.learned.temperature:TEMPERATURE",
    "thresholds": "ensembling.learned.thresholds:THRESHOLDS",
    "weights": "ensembling.learned.weights:WEIGHTS",
}
