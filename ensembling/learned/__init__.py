"""Rules learned from labelled tables."""
