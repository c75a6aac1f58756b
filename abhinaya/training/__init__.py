"""Training of members on the transformers Trainer."""
