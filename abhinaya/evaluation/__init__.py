"""Scores, their significance, and the checked submission."""
