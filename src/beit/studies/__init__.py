"""Studies, each one command: the demo, the paper's claims, and pre-training on one's own images."""
