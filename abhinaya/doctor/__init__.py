"""Looks at the environment, weights and memory before hours are spent."""
