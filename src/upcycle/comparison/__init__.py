"""Comparisons: variants on one split, or runs that exist, on the same test images."""
