"""Studies on real images, each one command: the demo, classification, segmentation."""
