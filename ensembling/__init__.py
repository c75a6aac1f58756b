"""Fusion of prediction tables: votes and tie-breaking. numpy only, no torch.

`RULES` names what the command line and the pipeline can use, without importing it.
"""

__all__ = ["RULES"]

RULES = {
    "vote": "ensembling.vote_tables:vote_tables",
}
