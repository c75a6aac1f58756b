"""What lies on disk: labels, manifests, transcripts, prediction tables, audio."""
