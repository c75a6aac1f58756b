"""SALMONN: two audio encoders, a window-level Q-Former and a LLaMA that listens."""
