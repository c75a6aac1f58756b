"""Corpora whose file names say everything: facts, a pattern, and how a name is read."""
