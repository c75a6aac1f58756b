"""Commands that show a run to people."""
