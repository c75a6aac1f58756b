"""Parts of neural networks that several members share: losses, pooling, heads."""
