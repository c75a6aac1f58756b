"""How a row of the manifest becomes a batch: clips, features, datasets, sampling, targets."""
