"""A trained member in its exported form, run by onnxruntime without torch's model."""
