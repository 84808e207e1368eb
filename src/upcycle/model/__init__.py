"""The network: architecture, weights, head, checkpoints."""
