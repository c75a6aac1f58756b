"""Reasons to stop before the end: signals, and neighbours in a launch that are gone."""
