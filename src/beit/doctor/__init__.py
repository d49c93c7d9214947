"""What is wrong with this machine, this installation, or this folder of images."""
