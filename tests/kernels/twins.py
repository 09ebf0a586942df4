"""What the CPU backend is made of, for the tests that compare it with the reference."""

from qwen35cli.kernels.cpu import Native
from qwen35cli.kernels.cpu.native import built

# Every variant that this CPU runs, not only the best: `portable` is what other machines get.
NATIVE = [Native.open(variant, path) for variant, path in built().items()]


def name(twin) -> str:
    """How pytest shows a twin."""
    return twin.variant if isinstance(twin, Native) else twin.__name__
