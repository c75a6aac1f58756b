"""The audit of speech encoders: one config, one folder with every number behind its tables."""
