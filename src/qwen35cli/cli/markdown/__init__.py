"""Markdown on a terminal while it is being written: append-only, no cursor movement, no erasing."""

from .renderer import Markdown

__all__ = ["Markdown"]
