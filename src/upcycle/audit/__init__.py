"""What is to be known about a set of images before anything is trained on it."""
