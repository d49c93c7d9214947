"""A trained model at work: images in, answers out."""
