"""Test kernels that this CPU cannot run: `python -m scripts.emulate_cpu [arguments of pytest]`.

Compiles the AVX-512 and VNNI variants with their instructions emulated, and runs the twin tests of
`tests/kernels` on them. Needs a CPU with AVX2, g++ and SIMDe (`apt install libsimde-dev`). It shows
that the kernels are right, not that they are fast, and not that the compiler gets them right.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCES = ROOT / "src/qwen35cli/kernels/cpu"
BUILT = ROOT / "build/emulated"
VARIANTS = ("avx512", "avx512vnni", "avxvnni")
FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-w"),
    *("-fvisibility=hidden", "-mavx2", "-mfma"),
)


def compile_one(variant: str, source: Path) -> Path:
    """The object file of one source in one variant."""
    target = BUILT / f"{variant}-{source.stem}.o"
    header = HERE / f"{variant}.h"
    subprocess.run(["g++", *FLAGS, "-include", header, "-c", source, "-o", target], check=True)
    return target


def main() -> int:
    BUILT.mkdir(parents=True, exist_ok=True)
    sources = sorted(SOURCES.glob("*.cpp"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for variant in VARIANTS:
            objects = list(pool.map(lambda source, v=variant: compile_one(v, source), sources))
            library = BUILT / f"_{variant}{EXTENSION_SUFFIXES[0]}"
            subprocess.run(["g++", "-shared", "-o", library, *objects], check=True)
    tests = [sys.executable, "-m", "pytest", "-q", "tests/kernels", *sys.argv[1:]]
    environment = os.environ | {"QWEN35_TEST_KERNELS": str(BUILT)}
    return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
