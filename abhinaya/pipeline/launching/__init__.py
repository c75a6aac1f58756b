"""How the steps of a chain are started: here, by accelerate launch, or as jobs of a cluster."""
