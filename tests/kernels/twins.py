"""What the CPU backend is made of, for the tests that compare it with the reference."""

import os
from pathlib import Path

from qwen35cli.kernels.cpu import Native
from qwen35cli.kernels.cpu.native import built


def variants() -> dict[str, Path]:
    """Those that this CPU runs, all of them: `portable` is what other machines get.

    Instead, those of a folder that `scripts/emulate_cpu` names.
    """
    if folder := os.environ.get("QWEN35_TEST_KERNELS"):
        return {path.name.split(".")[0][1:]: path for path in sorted(Path(folder).glob("_*"))}
    return built()


NATIVE = [Native.open(variant, path) for variant, path in variants().items()]


def name(twin) -> str:
    """How pytest shows a twin."""
    return twin.variant if isinstance(twin, Native) else twin.__name__
