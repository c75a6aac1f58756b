"""Tiny checkpoints in the published layouts."""
