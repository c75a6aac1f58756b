"""Trials: one member is trained in several variants, which are held against each other."""
