"""Launches that are seen to by others, and kernels that are compiled before they are needed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this system")
import triton

from qwen35cli.kernels.triton.kernel import compiled_ahead, launched_by
from qwen35cli.kernels.triton.swiglu import swiglu
from tests.scripted import environment, said_by

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# For a card that is not here.
DOUBLE = """
from scripts.compile_kernels import Card  # before all else: it wants no interpreter
import torch, triton
import triton.language as tl
from triton.runtime import driver
from qwen35cli.kernels.triton import fuse
from qwen35cli.kernels.triton.kernel import Kernel, compiled_ahead

@Kernel
@triton.jit
def double(x_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(x_ptr + at, 2 * tl.load(x_ptr + at))

fuse()
driver.set_active(Card(90))
"""

# First a kernel for two types and one that is wrong, then one for more numbers of warps than
# threads can have begun when something interrupts it.
COMPILING = """
import json

@Kernel
@triton.jit
def broken(x_ptr):
    tl.static_assert(False, "as it should be")

torch.set_num_threads(2)
count = 0

def counted(**about):
    global count
    count += not about["cache_hit"]

triton.knobs.compilation.listener = counted
found = {}
with compiled_ahead():
    for dtype in (torch.float32, torch.bfloat16):
        double[(1,)](torch.ones(64, dtype=dtype), N=64)
    broken[(1,)](torch.ones(1))
found["compiled"] = count
again = [double.compile(torch.ones(64, dtype=dtype), N=64) for dtype in (torch.float32,
                                                                         torch.bfloat16)]
found["entries"] = [kernel.asm["ptx"].count(".visible .entry double") for kernel in again]
found["after"] = count
try:
    broken.compile(torch.ones(1)).result()  # Triton 3.6 leaves its failed future there
except triton.CompilationError as error:
    found["error"] = str(error)
try:
    with compiled_ahead():
        for N in range(5, 14):
            double[(1,)](torch.ones(1), N=2**N)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    found["begun"] = count - found["after"]
with compiled_ahead():  # it can be used again
    double[(1,)](torch.ones(64, dtype=torch.int32), N=64)
print(json.dumps(found))
"""

# One, with an assembler that takes its time.
INTERRUPTED = """
try:
    with compiled_ahead():
        double[(1,)](torch.ones(64), N=64)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_what_is_compiled_ahead_does_not_run():
    gate, up = torch.randn(2, 3, 64, device=DEVICE)
    seen = []
    with compiled_ahead():
        swiglu(gate, up)
        with launched_by(lambda kernel, *rest: seen.append((kernel.name, *rest))):
            out = swiglu(gate, up)
    ((name, grid, arguments, options),) = seen
    assert (name, grid) == ("_swiglu", (1,))
    assert [id(each) for each in arguments[:3]] == [id(gate), id(up), id(out)]
    assert options["num_warps"] == 4
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(swiglu(gate, up), expected)  # now it runs


def test_launches_of_other_threads_run():
    gate, up = torch.randn(2, 3, 64, device=DEVICE)
    out = []
    with compiled_ahead():
        thread = threading.Thread(target=lambda: out.append(swiglu(gate, up)))
        thread.start()
        thread.join()
    torch.testing.assert_close(out[0], torch.nn.functional.silu(gate) * up)


def test_an_error_ends_it():
    gate, up = torch.randn(2, 3, 64, device=DEVICE)
    with pytest.raises(ZeroDivisionError), compiled_ahead():
        swiglu(gate, up)
        raise ZeroDivisionError
    torch.testing.assert_close(swiglu(gate, up), torch.nn.functional.silu(gate) * up)


def test_kernels_are_there_when_they_are_wanted(tmp_path):
    found = said_by(tmp_path, DOUBLE + COMPILING, timeout=120)
    assert found["compiled"] == found["after"] == 2
    assert found["entries"] == [1, 1]
    assert "as it should be" in found["error"]
    assert found["begun"] < 9  # of nine: the rest was given up


def test_ctrl_c_while_kernels_are_assembled_prints_nothing(tmp_path):
    """It comes to the assembler too; Triton prints the whole kernel where that is ended."""
    script, assembler, begun = (tmp_path / name for name in ("script.py", "ptxas", "begun"))
    script.write_text(DOUBLE + INTERRUPTED)
    real = triton.knobs.nvidia.ptxas_blackwell.path
    assembler.write_text(  # in Python: a shell would take the signals again
        f"#!{sys.executable}\nimport os, pathlib, sys, time\n"
        'if "--version" not in sys.argv:\n'
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        "    time.sleep(1)\n"
        f"os.execv({real!r}, sys.argv)\n"
    )
    assembler.chmod(0o755)
    tools = {name: str(assembler) for name in ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH")}
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TRITON_CACHE_DIR=str(tmp_path / "cache"), **tools),
        start_new_session=True,
    ) as process:
        while not begun.exists() and process.poll() is None:
            time.sleep(0.01)
        assert begun.exists()
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=120) == ("interrupted\n", "")
