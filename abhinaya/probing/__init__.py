"""What speech encoders know: probes, transfer, speaker null space, geometry; with controls."""
