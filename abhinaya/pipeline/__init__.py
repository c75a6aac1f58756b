"""The chain from corpus to submission, described by one YAML file."""
