"""Configs of training recipes: targets, mixing, balance, more heads. They need no torch."""
