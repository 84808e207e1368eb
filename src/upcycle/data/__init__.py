"""Images on disk to batches on the device: scan, decode, split, cache, augment."""
