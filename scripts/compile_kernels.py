"""Compile the GPU kernels for cards that are not here: `python -m scripts.compile_kernels`.

    --arch 80 86 89 90 100 120   compute capabilities
    --formats int4 int8 bf16     recipes
    --tokens 1 2 3 4 5 8         of a decode step, and pairs of a round of drafts
    --early N                    blocks of weights that products fetch ahead of the launch before
                                 (sm_90 and later), as `qwen35 tune` may find best; 0
    --keep DIR                   leave PTX and SASS of each kernel there, to be read

Runs decode steps, drafts and a prompt of the 4B's shapes on the CPU with Triton's launcher
replaced: each kernel is compiled as it would be launched, by the assembler that comes with Triton,
and not run. Shows registers, stack and shared memory, and ends with 1 where a kernel does not
compile, needs more shared memory than a program can have on such a card, keeps much of its numbers
on the stack, or, of a product of a step, reads matrices 16 bits at a time, or hands its operands
from thread to thread through shared memory: whether they come into the right registers by
themselves is up to the version of Triton.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from benchmarks.make_checkpoint import CONFIG_4B
from benchmarks.random_model import empty_model
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.kernels import BACKENDS
from qwen35cli.kernels.triton import attend_step, delta_chunk, drafts, fuse, launches, step
from qwen35cli.kernels.triton.kernel import Kernel, launched_by
from qwen35cli.model.draft_head import DraftHead
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant.swap import prepare

CPU: Final = torch.device("cpu")
KIB: Final = 1_024
SHARED: Final = {80: 163 * KIB, 86: 99 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB,
                 120: 99 * KIB}  # fmt: skip  # bytes of a program, CUDA C++ Programming Guide
PROCESSORS: Final = {80: 108, 86: 82, 89: 128, 90: 132, 100: 148, 120: 170}
TOKENS, CONTROL = 248_077, 248_044  # of the 4B's vocabulary: all, and those before control tokens
MOST_STACK: Final = 256  # bytes of a thread; the sine of a large angle takes 32
PRODUCTS: Final = ("_project", "_swiglu", "_add", "_best_rows")  # of a step or draft
MOST_STORES: Final = 60  # to shared memory, in the code of a product: for its sums
MORE_STORES: Final = 20  # for each token
MOST_NARROW: Final = 60  # reads of 16 bits, in the same: of scales and of a convolution
TOOL: Final = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Card:
    """Takes the place of Triton's driver: a GPU that can be compiled for and not run on."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


@dataclass(frozen=True)
class Compiled:
    """A kernel as one of its launches wants it."""

    name: str
    where: str  # the first launch that wants it
    tokens: int  # at once; 0: any number, of a prompt
    kernel: Any  # triton.compiler.CompiledKernel, or what was raised


def compile_all(arch: int, formats: list[str], tokens: list[int], early: int) -> Iterator[Compiled]:
    """All kernels of a prompt and of steps, each once."""
    fuse()
    driver.set_active(Card(arch))
    found: list[Compiled] = []
    known: set[str] = set()
    where, count = "", 0
    of_key = launches.Launches.of_key

    def compile_only(
        kernel: Kernel,
        grid: tuple[int, ...],
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> None:
        try:
            compiled = kernel.compile(*arguments, **options)
        except Exception as error:
            found.append(Compiled(kernel.name, where, count, error))
            return
        if compiled.hash not in known:
            known.add(compiled.hash)
            found.append(Compiled(kernel.name, where, count, compiled))

    try:
        delta_chunk._stages = lambda q: delta_chunk.stages(q.dtype, SHARED[arch])
        launches.architecture = lambda device: f"sm_{arch}"
        if early:
            launches.Launches.of_key = lambda self, name: replace(of_key(self, name), early=early)
        Qwen35.activation_dtype = property(lambda self: torch.bfloat16)
        for format in formats:
            model = _model(format)
            for dtype in (torch.bfloat16, torch.int8):
                with launched_by(compile_only):
                    head = DraftHead(
                        model.kernels, model.head.stored(), tokens=TOKENS, control=CONTROL
                    )
                    head.use([CONTROL - 1])
                    runner = Runner(model, capacity=512, kv_dtype=dtype, draft_head=head)
                    where, count = f"{format}, prompt", 0
                    list(runner.prefill(Prompt((1,) * 64)))
                    assert runner.stepper is not None
                    made = runner.stepper._step
                    assert isinstance(made, step.TritonStep)
                    config = model.config.text
                    attend = attend_step.room_of(
                        CPU, config.num_attention_heads, config.num_key_value_heads,
                        config.head_dim, 8,
                        attend_step.RESIDENT * PROCESSORS[arch] // config.num_key_value_heads,
                    )  # fmt: skip
                    made.room = replace(made.room, attend=attend)
                    assert runner.drafter is not None
                    loop = runner.drafter._loop
                    assert isinstance(loop, drafts.TritonDrafts)
                    loop.room = replace(loop.room, attend=attend)
                    for count in tokens:
                        where = f"{format}, kv {str(dtype).removeprefix('torch.')}, {count} tokens"
                        logits = made(runner.stepper.control, count)
                    for count in tokens:
                        where = f"{format}, kv {str(dtype).removeprefix('torch.')}, {count} pairs"
                        loop([1] * count, torch.zeros(1, count, config.hidden_size), 64, 64, 2,
                             head.candidates)  # fmt: skip
                    count = 1
                    draws = model.kernels.draws
                    assert draws is not None
                    draws(CPU, config.vocab_size, TOKENS, 4_096, 16)(
                        logits[0], runner.stepper.control, 1
                    )
                yield from found
                found.clear()
    finally:
        launches.Launches.of_key = of_key


def _model(format: str) -> Qwen35:
    """One of each kind of layer in the shapes of the 4B; its numbers do not matter."""
    kernels = BACKENDS["triton"](CPU, {})
    model = empty_model(CONFIG_4B, format, kernels, few=True, drafts=True)
    model.to_empty(device=CPU)
    model.requires_grad_(False)
    prepare(model)
    return model


def usage(cubin: bytes) -> tuple[int, int, str]:
    """Registers and bytes of stack of a thread, and SASS."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text, sass = (
            subprocess.run([TOOL, flag, file.name], capture_output=True, text=True, check=True)
            for flag in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", text.stdout)
    assert found is not None, text.stdout
    return int(found[1]), int(found[2]), sass.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, nargs="+", choices=SHARED, default=list(SHARED))
    parser.add_argument("--formats", nargs="+", default=["int4", "int8", "bf16"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 3, 4, 5, 8])
    parser.add_argument("--early", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    faults = 0
    for arch in options.arch:
        found = compile_all(arch, options.formats, options.tokens, options.early)
        for number, each in enumerate(found):
            line = f"sm_{arch} {each.name:14s} {each.where:28s}"
            if isinstance(each.kernel, Exception):
                faults += 1
                print(f"{line} FAILED: {type(each.kernel).__name__}: {each.kernel}", flush=True)
                continue
            registers, stack, sass = usage(each.kernel.asm["cubin"])
            stores = len(re.findall(r"\bSTS\b", sass))
            meta = each.kernel.metadata
            wrong = []
            if meta.shared > SHARED[arch]:
                wrong.append(f"MORE SHARED MEMORY THAN {SHARED[arch] / KIB:.0f} KiB")
            if stack > MOST_STACK:
                wrong.append("SPILLS")
            most = MOST_STORES + MORE_STORES * each.tokens
            if each.name in PRODUCTS and each.tokens and stores > most:
                wrong.append("OPERANDS GO THROUGH SHARED MEMORY")
            narrow = len(re.findall(r"\bLDG\.E\.U16\b", sass))
            if each.name in PRODUCTS and narrow > MOST_NARROW:
                wrong.append(f"{narrow} READS OF 16 BITS")
            faults += bool(wrong)
            print(
                f"{line} {meta.num_warps} warps, {registers:3d} registers, {stack:3d} B stack, "
                f"{meta.shared / KIB:5.1f} KiB shared, {stores:3d} stores to it",
                *wrong,
                flush=True,
            )
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                stem = options.keep / f"sm_{arch}-{number:02d}{each.name}"
                stem.with_suffix(".ptx").write_text(each.kernel.asm["ptx"])
                stem.with_suffix(".sass").write_text(f"// {each.where}\n{sass}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
