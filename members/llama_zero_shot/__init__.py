"""Member `llama-70b-zero-shot` (T1): a chat model is asked for the emotion of each transcript."""
