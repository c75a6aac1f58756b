"""Prompts of language models: files, rendering, answers, experiments."""
