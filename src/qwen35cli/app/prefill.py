"""How much of a prompt is read at once, by what reads it. Free of torch."""

from collections.abc import Mapping
from typing import Final

from .estimate import Device

# Tokens: more of them take more memory for activations. A GPU needs many to be busy.
CHUNK: Final[Mapping[Device, int]] = {"cuda": 2_048, "cpu": 512}
