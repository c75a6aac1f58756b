"""Fusion of prediction tables: votes, rules learned from data. numpy, no torch.

`RULES` names what the command line and the pipeline can use; it imports nothing.
"""

__all__ = ["RULES"]

RULES = {
    "vote": "ensembling.voting.vote_tables:vote_tables",
    "ablate": "ensembling.ablation.ablate:ablate_tables",
    "read-combinations": "ensembling.ablation.combinations:read_combinations",
    "write-subsets": "ensembling.ablation.ablate:write_subsets",
    "compare": "abhinaya.evaluation.comparison:compare_tables",
    "fit": "ensembling.learned.fitting:fit_recipe",
    "apply": "ensembling.learned.fitting:apply_recipe",
    "read-recipe": "ensembling.learned.recipes:read_recipe",
    "write-recipe": "ensembling.learned.recipes:write_recipe",
    "smooth": "ensembling.speakers.smooth_tables:smooth_table",
    "cluster-voices": "abhinaya.speakers.clusters:cluster_voices",
    "tune-voices": "abhinaya.speakers.clusters:tune_threshold",
    "cluster-quality": "abhinaya.speakers.clusters:cluster_quality",
}
