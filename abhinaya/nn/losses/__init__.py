"""Losses: their config, their formulas, and how one becomes the other."""
