"""The whole jobs that commands and Python calls start: train, cross-validate, load, evaluate."""
