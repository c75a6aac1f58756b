"""Trained speech members as ONNX files that run without torch."""
