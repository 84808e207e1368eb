"""A trained model as files that other programs read, and the proof that they predict the same."""
