"""Data sets of the Hugging Face library `datasets`: read into manifests, and written from them."""
