"""Corpora whose labels stand in tables beside the sound."""
