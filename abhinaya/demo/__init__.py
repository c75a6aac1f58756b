"""A small synthetic corpus in the published layout: the whole chain runs without licensed data."""
