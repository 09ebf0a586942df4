"""Products in Triton against plain torch: in the interpreter here, compiled where a GPU is."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from qwen35cli.errors import DeviceError
from qwen35cli.kernels import reference, select
from qwen35cli.kernels.operands import Int8, Replay
from tests.kernels.test_linear import operand
from tests.scripted import environment

triton = pytest.importorskip("triton", reason="Triton has no wheel for this system")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ["int4-32", "int4-64", "int4-128", "int8"]
# Awkward ones: a part of a word, of a group, of a block of words, of a program's rows.
SHAPES = [(1, 1), (3, 5), (11, 1_351), (9, 257)]
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2},  # of the rounded result
}


def moved(weight):
    """The operand on the device that runs."""
    return replace(weight, packed=weight.packed.to(DEVICE), scale=weight.scale.to(DEVICE))


def tokens(count, K, dtype=torch.float32):
    return torch.randn(count, K, device=DEVICE).to(dtype)


@pytest.mark.parametrize("T", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_matvec_is_the_product_with_the_dequantized_matrix(kind, shape, T, poisoned):
    torch.manual_seed(T)
    N, K = shape
    weight = moved(operand(kind, N, K))
    dtype = torch.bfloat16 if T == 3 else torch.float32
    x = tokens(T, K, dtype)
    found = select(DEVICE, "triton").linear(x[None], weight, None)
    assert (found.dtype, found.shape) == (dtype, (1, T, N))
    expected = reference.linear(x.double(), weight)
    torch.testing.assert_close(found[0].double(), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_swiglu_is_made_of_both_products(kind, T, poisoned):
    torch.manual_seed(T)
    gate, up = (moved(operand(kind, 7, 100)) for _ in range(2))
    x = tokens(T, 100)
    found = select(DEVICE, "triton").project_swiglu(x, gate, up)
    expected = reference.project_swiglu(x.double(), gate, up)
    torch.testing.assert_close(found.double(), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_norm_residual_and_swiglu_fold_into_the_products(kind, T, poisoned):
    from qwen35cli.kernels.triton import matvec

    torch.manual_seed(T)
    weights = tuple(moved(operand(kind, N, 100)) for N in (7, 7, 3))
    x, norm = 30 * tokens(T, 100), tokens(1, 100)[0].mul(0.3).bfloat16()
    exact = reference.rms_norm(x.double(), norm, 1e-6)
    for found, weight in zip(matvec.norm_project(x, norm, 1e-6, weights), weights, strict=True):
        expected = reference.linear(exact, weight)
        torch.testing.assert_close(found.double(), expected, **TOLERANCE[torch.float32])
    found = matvec.norm_project_swiglu(x, norm, 1e-6, *weights[:2])
    expected = reference.project_swiglu(exact, *weights[:2])
    torch.testing.assert_close(found.double(), expected, **TOLERANCE[torch.float32])
    residual = tokens(T, 7)
    found = matvec.add_linear(residual, x, weights[0])
    expected = residual + reference.linear(x.double(), weights[0])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-4)
    assert found is not residual


@pytest.mark.skipif(torch.cuda.is_available(), reason="its memories are made on the CPU")
@pytest.mark.parametrize(("kind", "logged"), [("int4-32", True), ("int8", False), ("bf16", True)])
def test_stack_agrees_with_reference(kind, logged, poisoned):
    """As tests/kernels/test_blocks.py has it for C++: a layer of each kind, several steps."""
    from tests.kernels import test_blocks as twin

    def blocks():
        made = []
        for number, block in enumerate(twin.blocks(torch.bfloat16)[:2]):
            torch.manual_seed(100 + number)
            if kind == "bf16":
                made.append(block)
                continue
            mixer = block.mixer
            project = tuple(
                weight if weight.shape[0] == twin.H else operand(kind, *weight.shape)
                for weight in mixer.project
            )
            mixer = replace(mixer, project=project, out=operand(kind, *mixer.out.shape))
            shapes = block.gate.shape, block.up.shape, block.down.shape
            gate, up, down = (operand(kind, *shape) for shape in shapes)
            made.append(replace(block, mixer=mixer, gate=gate, up=up, down=down))
        return tuple(made)

    ours, plain = select(DEVICE, "triton").stack(blocks()), reference.stack(blocks())
    past, wanted_past = twin.logs(), twin.logs()
    start, kept = 0, 0
    for T in (1, 2, 1):
        x, angles = twin.random(1, T, twin.D), twin.random(1, T, twin.R)
        arguments = (x, angles.cos(), angles.sin(), start)
        new, wanted_new = twin.logs(), twin.logs()
        replays = [Replay(*each) for each in zip(past, (kept, kept), new, strict=True)]
        twins = [Replay(*each) for each in zip(wanted_past, (kept, kept), wanted_new, strict=True)]
        found = ours(*arguments, replays if logged else None)
        expected = plain(*arguments, twins if logged else None)
        torch.testing.assert_close(found, expected, **twin.TOLERANCE)
        past, wanted_past, kept = new, wanted_new, T
        start += T


def test_matrices_of_different_kinds_are_multiplied_one_by_one():
    x, kernels = tokens(2, 64), select(DEVICE, "triton")
    weights = tuple(moved(operand(kind, 5, 64)) for kind in KINDS)
    for found, weight in zip(kernels.project(x, weights), weights, strict=True):
        torch.testing.assert_close(found, reference.linear(x, weight), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(
        kernels.project_swiglu(x, weights[0], weights[-1]),
        reference.project_swiglu(x, weights[0], weights[-1]),
        rtol=1e-5,
        atol=2e-5,
    )


def test_more_tokens_and_plain_matrices_go_another_way():
    kernels = select(DEVICE, "triton")
    weight, bias = moved(operand("int4-32", 6, 40)), torch.randn(6, device=DEVICE)
    plain = operand("bf16", 6, 40).to(DEVICE)
    for x, each, more in (
        (tokens(9, 40), weight, None),
        (tokens(2, 40), weight, bias),
        (tokens(2, 40), plain, None),
    ):
        assert torch.equal(kernels.linear(x, each, more), reference.linear(x, each, more))


def test_every_code_is_read_exactly():
    """One input of one after the other gives each weight itself: nothing is rounded on the way."""
    codes = torch.arange(256, dtype=torch.int64)
    words = sum(codes.view(-1, 4)[:, i] << (8 * i) for i in range(4))
    packed = torch.where(words >= 2**31, words - 2**32, words).int().view(1, 64)
    scale = torch.tensor([[0.5]], dtype=torch.bfloat16)
    weight = moved(Int8(packed, scale, (1, 256)))
    ones = torch.eye(256, device=DEVICE)[::37]
    found = select(DEVICE, "triton").linear(ones, weight, None)[:, 0]
    assert found.tolist() == [0.5 * (code - 128) for code in range(0, 256, 37)]


def test_the_demo_says_the_same_with_these_products(tmp_path):
    """A whole decode step of the quantized demo: logits as the reference has them."""
    from qwen35cli.app import quantize
    from qwen35cli.app.load import LoadOptions, load, open_model
    from qwen35cli.engine.runner import Prompt

    logits = []
    for kernels in ("reference", "triton"):
        options = LoadOptions(
            model="demo",
            device=DEVICE.type,
            ctx=512,
            kernels=kernels,
            quant="int4",
            store=tmp_path,
        )
        opened = open_model(options, lambda job: [*quantize.run(job)] and None)
        runner = load(opened, pictures=False).runner
        for _ in runner.prefill(Prompt(tuple(range(20, 32)))):
            pass
        logits.append(runner.step(40))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_on_a_cpu_they_are_refused_outside_the_interpreter():
    script = (
        "import torch; from qwen35cli.kernels import select; select(torch.device('cpu'), 'triton')"
    )
    variables = environment()
    variables.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=120
    )
    assert "the Triton kernels run on an NVIDIA GPU, not on cpu" in done.stderr


def test_without_triton_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(DeviceError, match="need the package triton") as caught:
        select(torch.device("cuda"), "triton")
    assert caught.value.hint == "pip install triton, or --kernels reference"
