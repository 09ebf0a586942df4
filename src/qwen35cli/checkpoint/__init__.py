"""Checkpoints in the Hugging Face layout: found, checked, read into a model, written."""
