"""Smoothing and other adaptation per speaker."""
