"""abhinaya: from an emotional-speech corpus on disk to a validated challenge submission."""

__all__ = ["__version__"]

__version__ = "0.1.0"
