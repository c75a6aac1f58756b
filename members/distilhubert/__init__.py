"""DistilHuBERT: two layers, small enough for a phone."""
