"""The fine-tuning loop and what it needs."""
