"""Time to quality: how good a backbone is after so many CPU seconds, ours and its alternatives."""
