"""The stages of the chain, each once: its settings, and the function that does the work.

The command of a stage takes its options from the settings, and `abhinaya run` takes the same
settings from a block of its YAML.
"""
