"""Prediction with trained members, and frozen features kept on disk."""
