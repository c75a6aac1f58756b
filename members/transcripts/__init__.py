"""Transcripts made by Whisper: batched, resumable, sharded over processes."""
