"""Transcripts by Whisper, and the word error rate."""
