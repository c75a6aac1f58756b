"""BEATs, the second encoder of SALMONN."""
