"""WavLM and its relatives, fine-tuned under a classification head."""
