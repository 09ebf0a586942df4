"""Products of a decode step in Triton: in the interpreter here, compiled where a GPU is."""

import itertools
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch
from torch.nn.functional import silu

from qwen35cli.errors import DeviceError
from qwen35cli.kernels import reference, select
from qwen35cli.kernels.operands import FEW, DeltaLog, Int4, Int8
from tests.kernels.test_linear import operand, pack
from tests.scripted import environment

pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton.launches import Launches
from qwen35cli.kernels.triton.matvec import (
    MOST_SPLIT,
    Convolution,
    Gates,
    HeadSquares,
    Launch,
    Pieces,
    Stream,
    add,
    fitted,
    project,
    swiglu,
)
from qwen35cli.kernels.triton.tiles import prepare

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ["int4-32", "int4-64", "int4-128", "int8", "bf16"]
FORMATS = ["int4-32", "int8", "bf16"]
EPS = 0.5  # of norms: large enough that it matters
# Of the largest result: sums are float32, the judge is float64. Those of tensor cores are cut off
# where float32 would round, and at the shapes of 4B there are many.
SUMS, MANY_SUMS = 2e-6, 1e-5
# Triton's interpreter stores float32 as bf16 by truncation: up to one unit of the last place.
ROUNDING = 2**-8 if DEVICE.type == "cuda" else 2**-7

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def nans(*shape, dtype=torch.float32):
    return torch.full(shape, torch.nan, device=DEVICE, dtype=dtype)


def matrix(kind, N, K):
    """In the layout of the file, on the device that runs."""
    weight = operand(kind, N, K)
    if isinstance(weight, torch.Tensor):
        return weight.to(DEVICE)
    return replace(weight, packed=weight.packed.to(DEVICE), scale=weight.scale.to(DEVICE))


def stream(D, T):
    """What a launch before leaves. Rows past T must not be read. Squares are not those of x here:
    who is to be read shows."""
    made = Stream(3 * torch.randn(FEW, D), torch.randn(FEW, D), 200 * torch.rand(FEW, D // 16))
    made = Stream(made.x.to(DEVICE), made.scaled.bfloat16().to(DEVICE), made.squares.to(DEVICE))
    for each in fields(Stream):
        getattr(made, each.name)[T:] = torch.nan
    return made


def untouched(D):
    return Stream(nans(FEW, D), nans(FEW, D, dtype=torch.bfloat16), nans(FEW, D // 16))


def normed(stream, T):
    """The first T rows as the products see them, float64."""
    squares, D = stream.squares[:T].double(), stream.x.shape[1]
    return stream.scaled[:T].double() * (squares.sum(-1, keepdim=True) / D + EPS).rsqrt()


def product(x, weight):
    return reference.linear(x.double(), weight)


def agree(found, expected, sums=SUMS, largest=None):
    """Rounded once where it is bf16. NaN agrees with nothing."""
    largest = expected.abs().max() if largest is None else largest
    rounding = ROUNDING if found.dtype == torch.bfloat16 else 0.0
    away = (found.double() - expected).abs()
    room = sums * largest + rounding * expected.abs()
    assert (away <= room).all(), f"{(away / largest).max():.2e} of the largest away"


def is_nan(*tensors):
    return all(tensor.isnan().all() for tensor in tensors)


# ---------------------------------------------------------------------------- several matrices


@pytest.mark.parametrize(
    ("T", "K", "rows", "launch", "dtype"),
    [
        (1, 128, (16,), Launch(1, 1), torch.float32),
        (3, 512, (64, 32, 32), Launch(2, 2, tiles=2), torch.float32),
        (8, 512, (16, 16), Launch(4, 4), torch.bfloat16),
        (2, 384, (16, 32, 16), Launch(1, 3, tiles=2), torch.float32),
    ],
    ids=["one", "pairs", "eight", "odd"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_products_of_the_normed_stream_lie_side_by_side(kind, T, K, rows, launch, dtype):
    torch.manual_seed(T)
    weights = tuple(matrix(kind, N, K) for N in rows)
    x, out = stream(K, T), nans(FEW, sum(rows), dtype=dtype)
    room = out[:T] if T == 3 else out  # more than T rows are not asked for
    project(x, EPS, tuple(prepare(weight) for weight in weights), room, T, launch)
    agree(out[:T], torch.cat([product(normed(x, T), weight) for weight in weights], 1))
    assert is_nan(out[T:])


@pytest.mark.parametrize(
    ("launch", "shapes", "expected"),
    [
        (Launch(8, 5), [(16, 2_560)], Launch(4, 5)),
        (Launch(2, 4, tiles=2), [(32, 768), (16, 768)], Launch(2, 3)),
        (Launch(4, 2, split=3), [(32, 1_024)], Launch(4, 1, split=2)),
        (Launch(1, 1, tiles=2, overlap=True), [(32, 128)], Launch(1, 1, tiles=2, overlap=True)),
    ],
)
def test_a_launch_is_fitted_to_the_blocks_of_a_matrix(launch, shapes, expected):
    assert fitted(launch, tuple(operand("int4-32", *shape) for shape in shapes)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_read_exactly(kind):
    """A one and nothing else gives a column of the matrix itself: nothing is rounded on the way."""
    torch.manual_seed(0)
    K = 128
    rows, columns = torch.arange(16)[:, None], torch.arange(K)
    if kind == "int8":
        codes = (3 * columns + 16 * rows) % 256  # all of them, 8 times
        scale = torch.linspace(0.3, 0.7, 16)[:, None].bfloat16()
        weight = Int8(pack(codes, 8).to(DEVICE), scale.to(DEVICE), (16, K))
    elif kind == "bf16":
        weight = matrix(kind, 16, K)
    else:
        group = int(kind[5:])
        codes = (columns + rows + columns // 16) % 16
        scale = torch.randn(16, K // group).bfloat16()
        weight = Int4(pack(codes, 4).to(DEVICE), scale.to(DEVICE), (16, K), group)
    exact = weight.float() if kind == "bf16" else reference.dequantize(weight)
    ones = torch.eye(K, device=DEVICE).bfloat16()
    # A mean square of one, and eps of zero: the norm changes nothing.
    x = Stream(nans(FEW, K), ones[:FEW], torch.full((FEW, K // 16), 16.0, device=DEVICE))
    weight, out = prepare(weight), nans(FEW, 16)
    for first in range(0, K, FEW):
        project(replace(x, scaled=ones[first:][:FEW]), 0.0, (weight,), out, FEW, Launch(1, 1))
        assert torch.equal(out, exact.T[first:][:FEW])


# ------------------------------------------------------------------- convolution and scalar gates


class Mixer:
    """The first projections of a DeltaNet layer: qkv into the convolution, z, and the gates."""

    def __init__(self, kind, D, C, Z, H, dtype):
        self.D, self.C, self.H = D, C, H
        self.qkv, self.z = matrix(kind, C, D), matrix(kind, Z, D)
        self.a, self.b = (amid(matrix("bf16", H, D)) for _ in range(2))
        self.tiled = prepare(self.qkv), prepare(self.z)
        self.memory(dtype)

    def memory(self, dtype):
        self.convolution = Convolution(
            torch.randn(self.C, 1, 4, device=DEVICE).to(dtype),
            torch.randn(1, 3, self.C, device=DEVICE).to(dtype),
            nans(2, FEW, self.C, dtype=dtype),
            nans(FEW, self.C),
            torch.tensor([99, 99, 0, 1, 99], dtype=torch.int32, device=DEVICE),
        )

    def run(self, x, T, launch):
        """Outputs of z and of the gates; `convolution` has the others."""
        self.convolution.mixed.fill_(torch.nan)
        out = nans(FEW, self.z.shape[0], dtype=torch.bfloat16)
        gates = Gates(self.a, self.b, nans(FEW, 2 * self.H))
        more = {"convolution": self.convolution, "gates": gates}
        project(x, EPS, self.tiled, out, T, launch, **more)
        return out, gates.out

    def keep(self, tokens):
        """The step that was run becomes the past one, of which so many tokens stay."""
        self.convolution.control[2] = tokens
        self.convolution.control[3] ^= 1


def amid(tensor):
    """The same in the midst of NaN: what is read beside it shows."""
    rows = nans(len(tensor) + 32, *tensor.shape[1:], dtype=tensor.dtype)
    rows[16:-16] = tensor
    return rows[16:-16]


def absorbed(rows, inputs, tokens):
    """`rows` with so many logged ones behind them, as `reference.absorb` has it."""
    rows, nothing = rows.clone(), torch.zeros(1, FEW, 1, 1, device=rows.device)
    log = DeltaLog(inputs[None], nothing, nothing, nothing[..., 0])
    reference.absorb(log, tokens, rows, torch.zeros(1, 1, 1, 1, device=rows.device))
    return rows


def check_mixer(mixer, steps, launch, sums=SUMS):
    kept, conv = 0, mixer.convolution
    for T, keeps in steps:
        x, parity, logs = stream(mixer.D, T), int(conv.control[3]), conv.logs.clone()
        rows = absorbed(conv.rows, logs[parity], kept)
        out, gates = mixer.run(x, T, launch)
        agree(out[:T], product(normed(x, T), mixer.z), sums)
        both = torch.cat([product(normed(x, T), weight) for weight in (mixer.a, mixer.b)], 1)
        agree(gates[:T], both, sums)
        # The log has the inputs of the convolution as they go into it, rounded once.
        new = conv.logs[1 - parity]
        agree(new[:T], product(normed(x, T), mixer.qkv), sums)
        mixed, _ = reference.causal_conv(
            new[None, :T].double(), conv.weight.double(), rows.double()
        )
        agree(conv.mixed[:T], mixed[0])
        assert torch.equal(conv.rows, rows)
        assert torch.equal(conv.logs[parity].nan_to_num(), logs[parity].nan_to_num())
        assert torch.equal(new[T:].nan_to_num(), logs[1 - parity, T:].nan_to_num())
        assert is_nan(out[T:], gates[T:], conv.mixed[T:])
        mixer.keep(keeps)
        kept = keeps


@pytest.mark.parametrize(
    ("kind", "launch", "dtype"),
    [
        ("int4-32", Launch(2, 1), torch.bfloat16),
        ("int8", Launch(2, 2, tiles=2), torch.float32),
        ("bf16", Launch(4, 2, tiles=2), torch.bfloat16),
    ],
)
def test_steps_of_which_some_tokens_are_taken_back_go_through_the_convolution(kind, launch, dtype):
    torch.manual_seed(0)
    steps = ((1, 1), (3, 2), (1, 0), (8, 6), (1, 1))
    check_mixer(Mixer(kind, 256, 32, 32, 16, dtype), steps, launch)


@pytest.mark.parametrize("H", [4, 16, 24])
def test_gates_of_any_number_of_heads(H):
    torch.manual_seed(H)
    check_mixer(Mixer("int8", 128, 16, 16, H, torch.bfloat16), [(3, 1)], Launch(1, 2))


def test_gates_stand_beside_any_matrices():
    """As the launch without a convolution, and with warps that do not divide the blocks of bf16."""
    torch.manual_seed(1)
    weights = tuple(matrix("int4-128", N, 384) for N in (16, 32))
    a, b = (amid(matrix("bf16", 16, 384)) for _ in range(2))
    x, out, gates = stream(384, 2), nans(FEW, 48), nans(FEW, 32)
    tiled = tuple(prepare(weight) for weight in weights)
    project(x, EPS, tiled, out, 2, Launch(1, 3), gates=Gates(a, b, gates))
    agree(out[:2], torch.cat([product(normed(x, 2), weight) for weight in weights], 1))
    agree(gates[:2], torch.cat([product(normed(x, 2), weight) for weight in (a, b)], 1))
    assert is_nan(out[2:], gates[2:])


def test_tokens_convolved_at_once_leave_the_bits_of_those_one_by_one():
    torch.manual_seed(2)
    mixer = Mixer("int4-64", 128, 32, 16, 8, torch.bfloat16)
    before, launch = mixer.convolution, Launch(1, 1)
    alone = replace(
        before, rows=before.rows.clone(), logs=before.logs.clone(), control=before.control.clone()
    )
    alone = replace(alone, mixed=nans(FEW, 32))
    for T, kept in ((3, 2), (1, 1), (2, 2)):
        x = stream(128, T)
        mixer.convolution = before
        out, gates = mixer.run(x, T, launch)
        mixer.keep(kept)
        mixer.convolution = alone
        for t in range(kept):
            results = mixer.run(single(x, t), 1, launch)
            assert torch.equal(alone.mixed[0], before.mixed[t])
            assert torch.equal(results[0][0], out[t]) and torch.equal(results[1][0], gates[t])
            mixer.keep(1)


def single(x, t):
    """A stream of one of its tokens."""
    made = untouched(x.x.shape[1])
    for each in fields(Stream):
        getattr(made, each.name)[0] = getattr(x, each.name)[t]
    return made


# -------------------------------------------------------------------------------------- SwiGLU


@pytest.mark.parametrize(("T", "K", "launch"), [(3, 384, Launch(1, 3)), (8, 512, Launch(4, 2))])
@pytest.mark.parametrize("kind", KINDS)
def test_swiglu_is_made_of_both_products(kind, T, K, launch):
    torch.manual_seed(T)
    gate, up = (matrix(kind, 32, K) for _ in range(2))
    x, out = stream(K, T), nans(FEW, 32, dtype=torch.bfloat16)
    swiglu(x, EPS, prepare(gate), prepare(up), out, T, launch)
    check_swiglu(out, x, T, gate, up)


def check_swiglu(out, x, T, gate, up, sums=SUMS):
    gate, up = product(normed(x, T), gate), product(normed(x, T), up)
    largest = 2 * gate.abs().max() * up.abs().max()  # both are as far away as they may be
    agree(out[:T], silu(gate) * up, sums, largest)
    assert is_nan(out[T:])


# ---------------------------------------------------------------------------- onto the residual


def heads_of(K, width, parts, T):
    """Sums of squares that differ from head to head, and from those of the input."""
    sums = width * torch.rand(FEW, K // width, parts, device=DEVICE)
    sums[T:] = torch.nan
    return HeadSquares(sums, width, EPS)


def input_of(K, T):
    x = torch.randn(FEW, K, device=DEVICE).bfloat16()
    x[T:] = torch.nan
    return x


def per_head(x, heads, T):
    """The first T rows as the product sees them, float64."""
    x = x[:T].double()
    if heads is None:
        return x
    squares = heads.parts[:T].double().sum(-1)
    return x * (squares / heads.width + heads.eps).rsqrt().repeat_interleave(heads.width, 1)


def check_sum(after, x, weight, before, norm, heads, T, sums=SUMS):
    expected = before.x[:T].double() + product(per_head(x, heads, T), weight)
    agree(after.x[:T], expected, sums)
    # What the next norm needs, of that very sum.
    exact = after.x[:T].double()
    agree(after.scaled[:T], exact * (1 + norm.double()))
    squares = exact.square().unflatten(1, (-1, 16)).sum(-1)
    torch.testing.assert_close(after.squares[:T].double(), squares, rtol=1e-6, atol=0)
    assert is_nan(after.x[T:], after.scaled[T:])


@pytest.mark.parametrize(
    ("T", "launch", "width", "parts"),
    [
        (1, Launch(1, 3), 0, 0),
        (3, Launch(2, 3, tiles=2), 64, 2),
        (8, Launch(2, 1, split=2), 128, 4),
        (2, Launch(2, 1, tiles=2, split=3), 0, 0),
        (3, Launch(1, 2, split=3), 32, 1),
        (1, Launch(2, 1, tiles=2, split=2), 256, 3),
    ],
    ids=["alone", "heads-64", "split-2-heads-128", "split-3", "split-3-heads-32", "heads-256"],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_products_are_added_and_prepared_for_the_next_norm(kind, T, launch, width, parts):
    torch.manual_seed(T)
    D, K = 32, 768
    if kind == "int8":
        width = width and max(width, 64)  # the fewest inputs that it takes at once
    weight, before = matrix(kind, D, K), stream(D, T)
    norm = (0.3 * torch.randn(D, device=DEVICE)).bfloat16()
    x, heads = input_of(K, T), heads_of(K, width, parts, T) if width else None
    tiled, pieces, results = prepare(weight), Pieces.room(D, DEVICE), []
    pieces.sums.fill_(torch.nan)
    for _ in range(min(launch.split, 2)):
        after = untouched(D)
        add(x, tiled, before, after, norm, pieces, T, launch, heads=heads)
        assert not pieces.counters.any()
        results.append(after)
    check_sum(after, x, weight, before, norm, heads, T)
    for each in fields(Stream):
        first, last = (getattr(after, each.name)[:T] for after in (results[0], results[-1]))
        assert torch.equal(first, last)


@pytest.mark.parametrize("tiles", [1, 2])
def test_pieces_of_as_many_programs_as_there_may_be_have_room(tiles):
    torch.manual_seed(0)
    D, K, T = 64, 32 * MOST_SPLIT, 2
    weight, before, norm = matrix("bf16", D, K), stream(D, T), torch.zeros(D, device=DEVICE)
    room = nans(3, *Pieces.room(D, DEVICE).sums.shape)
    counters = torch.zeros(3, D // 16, dtype=torch.int32, device=DEVICE)
    x, after = input_of(K, T), untouched(D)
    launch = Launch(1, 1, tiles, MOST_SPLIT)
    add(x, weight, before, after, norm, Pieces(room[1], counters[1]), T, launch)
    check_sum(after, x, weight, before, norm, None, T)
    assert is_nan(room[0], room[2]) and not counters.any()


# ------------------------------------------------------------------------------------ invariance


@pytest.mark.parametrize("kind", FORMATS)
def test_a_token_has_the_same_bits_alone_and_among_eight(kind):
    torch.manual_seed(0)
    D, K = 32, 256
    norm = (0.3 * torch.randn(D, device=DEVICE)).bfloat16()
    wide, down = prepare(matrix(kind, D, K)), prepare(matrix(kind, D, K))
    x, y, before, heads = stream(K, FEW), input_of(K, FEW), stream(D, FEW), heads_of(K, 64, 2, FEW)

    def run(x, y, before, heads, T):
        out, gated, after = nans(FEW, D), nans(FEW, D, dtype=torch.bfloat16), untouched(D)
        project(x, EPS, (wide,), out, T, Launch(2, 1))
        swiglu(x, EPS, wide, down, gated, T, Launch(1, 2))
        pieces, launch = Pieces.room(D, DEVICE), Launch(1, 1, split=2)
        add(y, down, before, after, norm, pieces, T, launch, heads=heads)
        return out, gated, after.x, after.scaled, after.squares

    together = run(x, y, before, heads, FEW)
    for t in (0, 6):
        one = nans(FEW, K, dtype=torch.bfloat16), nans(*heads.parts.shape)
        one[0][0], one[1][0] = y[t], heads.parts[t]
        alone = run(single(x, t), one[0], single(before, t), replace(heads, parts=one[1]), 1)
        for found, expected in zip(alone, together, strict=True):
            assert torch.equal(found[0], expected[t])


# ------------------------------------------------------------------------- at the shapes of 4B


def shipped(op, *weights):
    return Launches.of(DEVICE, {}).find(op, *weights)


D, INNER, C, Z = 2_560, 9_216, 8_192, 4_096


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_first_projections_of_4b(kind, T):
    torch.manual_seed(T)
    mixer = Mixer(kind, D, C, Z, 32, torch.bfloat16)
    launch = shipped("project", mixer.qkv, mixer.z)
    check_mixer(mixer, ((T, T), (T, T - 1), (1, 0), (T, T)), launch, MANY_SUMS)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_mlp_of_4b(kind, T):
    torch.manual_seed(T)
    gate, up, down = matrix(kind, INNER, D), matrix(kind, INNER, D), matrix(kind, D, INNER)
    x, out = stream(D, T), nans(FEW, INNER, dtype=torch.bfloat16)
    swiglu(x, EPS, prepare(gate), prepare(up), out, T, shipped("swiglu", gate, up))
    check_swiglu(out, x, T, gate, up, MANY_SUMS)
    norm = (0.3 * torch.randn(D, device=DEVICE)).bfloat16()
    pieces, tiled = Pieces.room(D, DEVICE), prepare(down)
    for split in (1, 2, shipped("add", down).split):
        launch, results = replace(shipped("add", down), split=split), []
        for _ in range(20):  # the last program to arrive is another each time
            after = untouched(D)
            add(out, tiled, x, after, norm, pieces, T, launch)
            results.append(after)
        assert not pieces.counters.any()
        check_sum(after, out, down, x, norm, None, T, MANY_SUMS)
        assert all(torch.equal(each.x[:T], after.x[:T]) for each in results)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_outputs_of_heads_of_4b(kind, T):
    torch.manual_seed(T)
    weight, before = matrix(kind, D, Z), stream(D, T)
    norm = (0.3 * torch.randn(D, device=DEVICE)).bfloat16()
    x, heads, after = input_of(Z, T), heads_of(Z, 128, 4, T), untouched(D)
    pieces, launch = Pieces.room(D, DEVICE), shipped("add", weight)
    add(x, prepare(weight), before, after, norm, pieces, T, launch, heads=heads)
    check_sum(after, x, weight, before, norm, heads, T, MANY_SUMS)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("kind", FORMATS)
def test_a_token_has_the_same_bits_alone_and_among_eight_in_4b(kind):
    torch.manual_seed(0)
    weight, x = prepare(matrix(kind, Z, D)), stream(D, FEW)
    launch = shipped("project", weight)
    out, alone = nans(FEW, Z), nans(FEW, Z)
    project(x, EPS, (weight,), out, FEW, launch)
    for t in range(FEW):
        project(single(x, t), EPS, (weight,), alone, 1, launch)
        assert torch.equal(alone[0], out[t])


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("kind", FORMATS)
def test_launches_that_overlap_give_the_same_bits(kind):
    """Each fetches its weights while the one before still writes what it reads."""
    torch.manual_seed(0)
    gate, up, down = matrix(kind, INNER, D), matrix(kind, INNER, D), matrix(kind, D, INNER)
    gate, up, down = prepare(gate), prepare(up), prepare(down)
    norm = (0.3 * torch.randn(D, device=DEVICE)).bfloat16()
    pieces, start = Pieces.room(D, DEVICE), stream(D, 2)

    def run(overlap):
        first = replace(shipped("swiglu", gate, up), overlap=overlap)
        second = replace(shipped("add", down), overlap=overlap)
        streams = [start, *(untouched(D) for _ in range(8))]
        out = nans(FEW, INNER, dtype=torch.bfloat16)
        for before, after in itertools.pairwise(streams):
            swiglu(before, EPS, gate, up, out, 2, first)
            add(out, down, before, after, norm, pieces, 2, second)
        return streams[-1].x[:2]

    expected = run(overlap=False)
    assert expected.isfinite().all()
    for _ in range(10):
        assert torch.equal(run(overlap=True), expected)


# -------------------------------------------------------------------------- choosing the backend


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
    assert "pip install triton" in caught.value.hint
    assert "--kernels reference" in caught.value.hint


@pytest.mark.skipif(DEVICE.type == "cuda", reason="looks at addresses, in the interpreter")
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_early_are_the_weights_behind_those_fetched_first(kind, split, monkeypatch):
    from qwen35cli.kernels.triton import tiles

    N, K = 32, 1_536
    weight = prepare(matrix(kind, N, K))
    fetched, options = set(), Launch.options.fget

    def fetch_early(ptrs, BYTES, COUNT):
        for start in ptrs.handle.data.reshape(-1, 32)[:, : int(COUNT)].flatten().tolist():
            places = range(start, start + int(BYTES))
            assert start % 16 == 0 == len(places) % 16 and fetched.isdisjoint(places)
            fetched.update(places)

    monkeypatch.setattr(tiles, "fetch_early", fetch_early)
    monkeypatch.setattr(
        Launch, "options", property(lambda self: options(self) | {"EARLY": self.early})
    )
    launch = fitted(Launch(warps=2, ahead=1, split=split, early=100), (weight,))
    x = torch.randn(FEW, K, device=DEVICE).bfloat16()
    norm = torch.zeros(N, device=DEVICE).bfloat16()
    add(x, weight, stream(N, 1), untouched(N), norm, Pieces.room(N, DEVICE), 1, launch)
    parts = [weight] if kind == "bf16" else [weight.packed]
    parts += [weight.scale] if kind.startswith("int4") else []
    inside = {
        place for part in parts for place in range(part.data_ptr(), part.data_ptr() + part.nbytes)
    }
    assert fetched < inside
    assert len(fetched) == len(inside) * launch.early // (launch.early + launch.ahead)
