"""Voices: embeddings, their clusters, and estimated speakers."""
