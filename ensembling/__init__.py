"""Fusion of prediction tables: votes, rules learned from data. numpy, no torch.

`RULES` names what the command line and the pipeline can use, `LEARNED` the rules that
`abhinaya fit` knows; neither imports anything.
"""

__all__ = ["LEARNED", "RULES"]

RULES = {
    "vote": "ensembling.vote_tables:vote_tables",
    "ablate": "ensembling.ablation:ablate_tables",
    "read-combinations": "ensembling.combinations:read_combinations",
    "write-subsets": "ensembling.ablation:write_subsets",
    "compare": "abhinaya.evaluation.comparison:compare_tables",
    "fit": "ensembling.fitting:fit_recipe",
    "apply": "ensembling.fitting:apply_recipe",
    "read-recipe": "ensembling.recipes:read_recipe",
    "write-recipe": "ensembling.recipes:write_recipe",
    "smooth": "ensembling.smooth_tables:smooth_table",
    "cluster-voices": "abhinaya.speakers.clusters:cluster_voices",
    "tune-voices": "abhinaya.speakers.clusters:tune_threshold",
    "cluster-quality": "abhinaya.speakers.clusters:cluster_quality",
    "speaker-errors": "ensembling.speaker_errors:robustness_curve",
}

LEARNED = {
    "adaptation": "ensembling.adaptation:ADAPTATION",
    "log-odds": "ensembling.log_odds:LOG_ODDS",
    "stacking": "ensembling.stacking:STACKING",
    "temperature": "ensembling.temperature:TEMPERATURE",
    "thresholds": "ensembling.thresholds:THRESHOLDS",
    "weights": "ensembling.weights:WEIGHTS",
}
