"""Fusion of prediction tables: votes, ablation, rules learned from data, adaptation. No torch."""

__all__: list[str] = []
