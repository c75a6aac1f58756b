"""Several encoders of speech and one of text, fused by small transformers."""
