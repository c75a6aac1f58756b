"""What speech encoders know: probes, transfer, speaker nullspace, geometry; with controls."""
