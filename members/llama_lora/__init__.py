"""A language model that reads the transcript, fine-tuned with low-rank adapters and a head."""
