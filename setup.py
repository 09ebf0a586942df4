"""Builds the CPU kernels, once per instruction set; the best for the CPU is chosen at run time.

They are optional: where they cannot be built, the install succeeds and runs on torch's own ops.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup

HERE = Path("src/qwen35cli/kernels/cpu")
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fvisibility=hidden",
]
X86 = {
    "avx2": ["-mavx2", "-mfma"],
    "avxvnni": ["-mavx2", "-mfma", "-mavxvnni"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
    "avx512vnni": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
        "-mavx512vnni",
    ],
}
VARIANTS = {"portable": [], **(X86 if platform.machine() in ("x86_64", "AMD64") else {})}

setup(
    ext_modules=[
        Extension(
            f"qwen35cli.kernels.cpu._{variant}",
            sources=[str(path) for path in sorted(HERE.glob("*.cpp"))],
            depends=[str(path) for path in sorted(HERE.glob("*.h"))],
            extra_compile_args=FLAGS + flags,
            language="c++",
            optional=True,
        )
        for variant, flags in VARIANTS.items()
    ]
)
