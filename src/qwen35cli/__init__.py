"""Run Qwen3.5-4B on this machine."""

__version__ = "0.1.0"
