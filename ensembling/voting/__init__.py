"""Votes over prediction tables."""
