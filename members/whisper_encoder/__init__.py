"""The encoder of Whisper, frozen or with low-rank adapters, under a classification head."""
