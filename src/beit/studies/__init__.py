"""Studies on real pictures, each one command: the demo, classification, segmentation."""
