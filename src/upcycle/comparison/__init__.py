"""Studies over several runs: the ladder of rungs, and what tells them apart on the same test images."""
