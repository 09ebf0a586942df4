"""Published and worked figures of memory, against our shapes and the estimate.

Of our own formats and of other people's: parameters, weights, keys and values, states, activations,
pictures, largest contexts, and what other runners were seen to take. Totals: `test_estimate.py`.
"""

import math

import pytest

from qwen35cli.app import gpus, vram
from qwen35cli.app.estimate import EFFICIENCY, GIB, MIB, Estimate, Setting, class_of, planned
from qwen35cli.checkpoint.names import parameter_shapes
from qwen35cli.images.resize import ImageLimits
from qwen35cli.model import sizes
from qwen35cli.model.siblings import SIBLINGS
from qwen35cli.quant.plan import recipe

NAME = "Qwen/Qwen3.5-4B"
FOUR = SIBLINGS[NAME]
SHAPES = parameter_shapes(FOUR)
CONTEXTS = (1_024, 8_192, 32_768, 131_072, 262_144, 1_010_000)
# A matrix of ours has 16 bytes for its shape; one of nf4 has 256 for bitsandbytes' note, of which
# the known figures count 4.
BESIDE = {"keep": 0, "int8": 16, "int4": 16, "nf4": 256 - 4}
# The factors of nf4 are float32 in memory, where the known figures hold them in 8 bits and count
# 1,092 bytes of tables for each matrix.
NF4_MORE = 3_229_614_080 / 64 * (4 - 1 - 4 / 256) - 168 * 1_092


def of(quant="int4", group=None, **setting):
    model = planned(NAME, FOUR, recipe(quant, group))
    return Estimate(model, Setting(**({"ctx": 0} | setting)))


def part(estimate, name):
    return next(each.nbytes for each in estimate.parts if each.name == name)


def row_of(name):
    """The line of the tables that a tensor belongs to."""
    kind = class_of(name)
    if kind in ("embedding", "vision", "mtp"):
        return kind
    if len(SHAPES[name]) != 2:
        return "small"
    return name.removesuffix(".weight").rpartition(".")[2]


def count(*leaves):
    """Parameters of the text's matrices with these names, or of a row."""
    return sum(math.prod(shape) for name, shape in SHAPES.items() if row_of(name) in leaves)


MLP = ("gate_proj", "up_proj", "down_proj")
SMALLER = (*MLP, "in_proj_qkv", "in_proj_z", "q_proj", "k_proj", "v_proj")
GATES = ("in_proj_a", "in_proj_b")
LINEARS = (*SMALLER, "out_proj", "o_proj", *GATES)


def test_parameters_by_class():
    assert count("embedding") == 635_699_200
    assert count(*MLP) == 2_264_924_160
    assert count("in_proj_qkv", "in_proj_z", "out_proj") == 1_006_632_960
    assert count("out_proj") == 251_658_240
    assert count(*GATES) == 3_932_160
    assert count("q_proj", "k_proj", "v_proj", "o_proj") == 293_601_280
    assert count("o_proj") == 83_886_080
    assert count("small") == 961_536
    wider = [name for name in SHAPES if sizes.itemsize(name) == 4]
    assert sum(2 * math.prod(SHAPES[name]) for name in wider) == 7_680


@pytest.mark.parametrize(
    ("rows", "matrices", "weights", "outputs"),
    [
        (LINEARS, 248, 3_569_090_560, 1_132_032),
        (SMALLER, 168, 3_229_614_080, 1_048_576),
        (("out_proj", "o_proj"), 32, 335_544_320, 81_920),
        (("embedding",), 1, 635_699_200, 248_320),
    ],
)
def test_matrices_and_their_rows(rows, matrices, weights, outputs):
    found = [shape for name, shape in SHAPES.items() if row_of(name) in rows]
    assert (len(found), sum(map(math.prod, found))) == (matrices, weights)
    assert sum(shape[0] for shape in found) == outputs


@pytest.mark.parametrize(
    ("quant", "group", "smaller", "out", "embedding", "mtp"),
    [
        ("bf16", None, 6.0156, 0.6250, 1.1841, 0.2246),
        ("int8", None, 3.0098, 0.3127, 0.5925, 0.1124),
        ("int4", 32, 1.6919, 0.3127, 0.5925, 0.1124),
        ("int4", 64, 1.5979, 0.3127, 0.5925, 0.1124),
        ("int4", 128, 1.5509, 0.3127, 0.5925, 0.1124),
        ("nf4", 64, 1.5518, 0.3127, 0.5925, 0.1124),
        ("nf4", 32, 1.5995, 0.3127, 0.5925, 0.1124),
    ],
)
def test_weights_of_the_recipes_by_row(quant, group, smaller, out, embedding, mtp):
    found = dict.fromkeys(("smaller", "out", "embedding", "rest", "vision", "mtp"), 0)
    for name, held in planned(NAME, FOUR, recipe(quant, group)).weights.items():
        row, kind = row_of(name), held.scheme.kind
        if row in SMALLER:
            row = "smaller"
        elif row in ("out_proj", "o_proj"):
            row = "out"
        elif row in ("small", *GATES):
            row = "rest"
        nbytes = held.nbytes if kind == "keep" else held.scheme.nbytes(SHAPES[name]) - BESIDE[kind]
        found[row] += nbytes
    expected = (smaller, out, embedding, 0.0091, 0.6212, mtp)
    for row, nbytes, gib in zip(found, found.values(), expected, strict=True):
        assert nbytes / GIB == pytest.approx(gib, abs=6e-5), row


@pytest.mark.parametrize(
    ("each", "per_row", "linears", "text", "both", "embedded", "seen"),
    [
        (1, 4, 3.328, 4.514, 5.135, 4.544, 4.829),
        (34 / 32, 0, 3.532, 4.718, 5.339, 4.784, 5.051),
        (0.5625, 0, 1.870, 3.056, 3.677, 2.826, 3.236),
        (0.5 + 1 / 64 + 4 / (256 * 64), 0, 1.715, 2.901, 3.522, 2.643, 3.067),
        (0.5 + 2 / 32, 0, 1.870, 3.056, 3.677, 2.826, 3.236),
        (0.5 + 2 / 64, 0, 1.766, 2.952, 3.573, 2.703, 3.123),
        (0.5 + 2 / 128, 0, 1.714, 2.900, 3.521, 2.642, 3.066),
        (0.5 + 2.5 / 128, 0, 1.727, 2.913, 3.534, 2.658, 3.080),
        (0.5 + 2.5 / 32, 0, 1.922, 3.108, 3.729, 2.887, 3.293),
        (0.5 + 4 / 64, 0, 1.870, 3.056, 3.677, 2.826, 3.236),
    ],
    ids=["llm.int8", "q8_0", "nf4", "nf4-double", "g32", "g64", "g128", "g128-zero", "awq", "mlx"],
)
def test_formats_of_others(each, per_row, linears, text, both, embedded, seen):
    """One number of bytes for every weight of the linears, and for each of their rows."""

    def taken(weights, rows):
        return weights * each + rows * per_row

    matrices = taken(count(*LINEARS), 1_132_032)
    embedding, vision = count("embedding"), count("vision")
    tower = {n: s for n, s in SHAPES.items() if row_of(n) == "vision" and len(s) == 2}
    tower = [shape for name, shape in tower.items() if "pos_embed" not in name]
    inner, rows = sum(map(math.prod, tower)), sum(shape[0] for shape in tower)
    assert (inner, rows) == (329_252_864, 227_840)

    whole = matrices + 2 * (embedding + count("small"))
    found = (
        matrices,
        whole,
        whole + 2 * vision,
        whole + 2 * vision - 2 * embedding + taken(embedding, 248_320),
        whole + 2 * (vision - inner) + taken(inner, rows),
    )
    for nbytes, gib in zip(found, (linears, text, both, embedded, seen), strict=True):
        assert nbytes / GIB == pytest.approx(gib, abs=0.002)


# -- keys, values, states --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kv_dtype", "per_token", "mib"),
    [
        ("bf16", 32_768, (32, 256, 1_024, 4_096, 8_192, 31_562.5)),
        ("int8", 16_512, (16.125, 129, 516, 2_064, 4_128, 15_904.5)),
    ],
)
def test_keys_and_values_at_every_context(kv_dtype, per_token, mib):
    for ctx, known in zip(CONTEXTS, mib, strict=True):
        found = of(ctx=ctx, kv_dtype=kv_dtype, drafts=1)
        assert part(found, "kv_cache") == ctx * per_token
        assert part(found, "kv_cache") / MIB == pytest.approx(known, abs=0.05)
        assert part(found, "mtp_kv_cache") == ctx * per_token // 8


@pytest.mark.parametrize(
    ("each", "scales", "per_token", "mib"),
    [
        (1, 4, 16_640, 4_160),  # int8, scales in float32
        (1, 0, 16_384, 4_096),  # fp8
        (34 / 32, 0, 17_408, 4_352),  # q8_0
        (18 / 32, 0, 9_216, 2_304),  # q4_0
        (0.5 + 2 / 128, 0, 8_448, 2_112),  # int4 in groups of 128
        ((34 / 32 + 24 / 32) / 2, 0, 14_848, 3_712),  # keys and values in q8_0 and q5_1
    ],
)
def test_keys_and_values_of_others(each, scales, per_token, mib):
    """From our count of numbers: 16,384 for a token, in 64 rows of 256."""
    text = FOUR.text
    rows = sizes.attention_layers(text) * 2 * text.num_key_value_heads
    assert (rows, rows * text.head_dim) == (64, 16_384)
    assert rows * (text.head_dim * each + scales) == per_token
    assert per_token * 262_144 / MIB == mib


def test_states_of_ours_and_of_others():
    text = FOUR.text
    assert sizes.state_bytes(text) == 50_331_648 == 48 * MIB
    conv = sizes.conv_bytes(text, 2)
    assert conv == 1.125 * MIB
    assert conv * 4 // 3 == 1.5 * MIB  # transformers keeps four columns
    assert sizes.state_bytes(text) + conv == 49.125 * MIB
    in_float32 = sizes.state_bytes(text) + sizes.conv_bytes(text, 4)
    slots = {1: 50.25, 2: 100.50, 7: 351.75}  # llama.cpp; the last with 6 drafts
    assert {count: count * in_float32 / MIB for count in slots} == slots
    assert pytest.approx(50.25, rel=0.07) == 53.5  # seen between 2 and 10 slots


# -- what is estimated -----------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "mib"), [(512, 56), (2_048, 224), (8_192, 896)])
def test_activations_of_a_chunk(chunk, mib):
    assert part(of(chunk=chunk), "activations") == mib * MIB


def test_logits_and_what_the_rows_of_a_whole_chunk_would_take():
    row = 4 * FOUR.text.vocab_size
    assert row == 993_280
    assert part(of(), "logits") / MIB == pytest.approx(2.4, abs=0.05)
    assert 512 * row == 485 * MIB
    assert 8_192 * row / GIB == pytest.approx(7.6, abs=0.05)


@pytest.mark.parametrize(
    ("size", "resized", "patches", "tokens", "mib", "kv"),
    [
        ((224, 224), (256, 256), 256, 64, 10, 2),
        ((512, 512), (512, 512), 1_024, 256, 40, 8),
        ((1_024, 1_024), (1_024, 1_024), 4_096, 1_024, 160, 32),
        ((1_920, 1_080), (1_920, 1_088), 8_160, 2_040, 319, 64),
        ((4_096, 4_096), (4_096, 4_096), 65_536, 16_384, 2_560, 512),
    ],
)
def test_pictures(size, resized, patches, tokens, mib, kv):
    options = vram.VramOptions(model="4B", image_max_tokens=None)
    limits = vram.picture_limits(options, FOUR)
    assert isinstance(limits, ImageLimits)
    assert vram.cut(size, limits) == vram.Picture(size, resized, patches, tokens)
    found = of(ctx=tokens, patches=(patches,))
    assert part(found, "image_activations") / MIB == pytest.approx(mib, abs=0.5)
    assert part(found, "kv_cache") / MIB == pytest.approx(kv, abs=0.5)


def test_the_default_limit_of_a_picture_keeps_its_activations_below_320_mib():
    limits = vram.picture_limits(vram.VramOptions(model="4B"), FOUR)
    assert limits.most_patches == 4 * 2_048
    assert part(of(patches=(limits.most_patches,)), "image_activations") <= 320 * MIB


def test_context_and_slack():
    for quant, gib in (("bf16", 0.2554), ("int8", 0.1381), ("int4", 0.0985), ("nf4", 0.0943)):
        slack = part(of(quant), "slack") - 0.03 * NF4_MORE * (quant == "nf4")
        assert slack / GIB == pytest.approx(gib, abs=2e-4)
        assert part(of(quant), "runtime") == GIB / 4
    small = planned("Qwen/Qwen3.5-0.8B", SIBLINGS["Qwen/Qwen3.5-0.8B"], recipe("int4"))
    assert part(Estimate(small, Setting(ctx=0)), "slack") == 64 * MIB


# -- totals, contexts, speed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quant", "gib"), [("bf16", 9.0654), ("int8", 5.0383), ("int4", 3.6809), ("nf4", 3.5366)]
)
def test_what_does_not_depend_on_the_context(quant, gib):
    for kv_dtype in ("bf16", "int8"):
        for ctx in CONTEXTS:
            fixed = of(quant, ctx=ctx, kv_dtype=kv_dtype).fixed
            fixed -= 1.03 * NF4_MORE * (quant == "nf4")
            assert fixed / GIB == pytest.approx(gib, abs=3e-4)


def test_variants():
    def more(estimate, than):
        return (estimate.total - than.total) / GIB

    assert more(of(group=64), of()) == pytest.approx(-0.10, abs=0.005)
    assert more(of(group=128), of()) == pytest.approx(-0.15, abs=0.005)
    nf4_more = 1.03 * 3_229_614_080 * (1 / 32 - 1 / 64) * (3 - 4 / 256)
    found = of("nf4", 32).total - of("nf4").total - nf4_more
    assert found / GIB == pytest.approx(0.05, abs=0.005)
    blind = Estimate(of().model.without_vision(), Setting(ctx=0))
    assert more(blind, of()) == pytest.approx(-0.64, abs=0.005)
    assert more(of(patches=(8_160,)), of()) == pytest.approx(0.31 * 1.03, abs=0.005)


@pytest.mark.parametrize(
    ("kv_dtype", "gib"),
    [
        ("bf16", (0.12, 0.15, 0.24, 0.62, 1.12, 3.97)),
        ("int8", (0.12, 0.13, 0.18, 0.37, 0.62, 2.06)),
    ],
)
def test_drafting(kv_dtype, gib):
    """The layer with its slack, and an eighth of keys and values; the log comes on top."""
    for ctx, known in zip(CONTEXTS, gib, strict=True):
        found = of(ctx=ctx, kv_dtype=kv_dtype, drafts=1)
        taken = 1.03 * part(found, "mtp") + part(found, "mtp_kv_cache")
        assert taken / GIB == pytest.approx(known, abs=0.006)
    assert part(of(drafts=1), "replay_log") < 16 * MIB


CARDS = """
GeForce GTX 1650 | 3.63 | – | – | – | 2,816 / 5,888 | 19,200 / 38,144
GeForce RTX 2060 6GB | 5.63 | – | 19,200 / 38,400 | 63,744 / 126,720 | 68,352 / 135,936 | \
84,736 / 168,192
GeForce RTX 4060 | 7.63 | – | 84,736 / 168,448 | 129,280 / 256,768 | 133,888 / 265,984 | \
150,272 / 298,240
GeForce RTX 3080 10GB | 9.61 | 17,664 / 35,328 | 149,760 / 297,216 | 194,048 / 385,536 | \
198,912 / 394,752 | 215,040 / 427,008
GeForce RTX 5070 | 11.55 | 81,408 / 161,536 | 213,248 / 423,424 | 257,792 / 511,488 | \
262,400 / 520,960 | 278,784 / 553,216
GeForce RTX 3060 12GB | 11.63 | 83,968 / 166,656 | 215,808 / 428,544 | 260,352 / 516,864 | \
264,960 / 526,080 | 281,344 / 558,336
Tesla T4 | 14.56 | 179,968 / 357,120 | 311,808 / 619,008 | 356,352 / 707,328 | \
360,960 / 716,800 | 377,344 / 748,800
GeForce RTX 5060 Ti 16GB | 15.45 | 209,152 / 414,976 | 340,992 / 676,864 | 385,536 / 765,184 | \
390,144 / 774,656 | 406,528 / 806,912
L4 | 22.03 | 424,704 / 843,008 | 556,544 / max | 601,088 / max | 605,952 / max | 622,080 / max
GeForce RTX 4090 | 23.52 | 473,600 / 939,776 | 605,440 / max | 649,984 / max | 654,592 / max | \
670,976 / max
GeForce RTX 5090 | 31.36 | 730,368 / max | 862,464 / max | 906,752 / max | 911,616 / max | \
927,744 / max
A100 SXM4 40GB | 39.49 | 996,864 / max | max | max | max | max
"""


@pytest.mark.parametrize("line", CARDS.strip().splitlines(), ids=lambda line: line.split(" | ")[0])
def test_largest_contexts_of_the_common_cards(line):
    name, usable, *cells = line.split(" | ")
    card = gpus.parse(name)
    assert (card.name, f"{card.usable / GIB:.2f}") == (name, usable)
    columns = [of("bf16"), of("int8"), of("int4"), of("nf4")]
    columns.append(Estimate(of().model.without_vision(), Setting(ctx=0)))
    for estimate, cell in zip(columns, cells, strict=True):
        bf16, _, int8 = cell.partition(" / ")
        for kv_dtype, known in (("bf16", bf16), ("int8", int8 or bf16)):
            tokens = {"–": "0", "max": "1010000"}.get(known, known).replace(",", "")
            room = card.usable + round(1.03 * NF4_MORE) * (estimate.model.quant == "nf4")
            found = estimate.changed(kv_dtype=kv_dtype).largest_context(room, 1_010_000)
            assert found == int(tokens), (estimate.model.quant, kv_dtype)


def test_speed_is_the_published_share_of_the_bandwidth():
    assert EFFICIENCY["bf16"] == EFFICIENCY["int8"] == (0.6, 0.8)
    assert EFFICIENCY["int4"] == EFFICIENCY["nf4"] == (0.4, 0.6)
    found = of(ctx=1_024).tokens_per_s(1_000)
    assert found == pytest.approx((0.4 * 1_000 / 2.93, 0.6 * 1_000 / 2.93), rel=0.002)


# -- what others were seen to take -----------------------------------------------------------------


def test_files_of_others():
    matrices = count(*LINEARS) + count("embedding")
    q8_0 = matrices * 34 // 32 + 4 * count("small")
    assert q8_0 == 4_471_435_264
    assert q8_0 == pytest.approx(4_482_403_424, rel=0.0025)
    mlx = matrices * 4.5 / 8 + 2 * (count("small") + count("vision"))
    assert mlx / 1e9 == pytest.approx(3.034, abs=0.003)
    assert count("embedding") // 256 * 210 / MIB == pytest.approx(497.31, abs=0.005)  # Q6_K


@pytest.mark.parametrize(("name", "mib"), [("0.8B", 489), ("2B", 493), ("4B", 495), ("9B", 501)])
def test_the_compute_buffer_of_llama_cpp(name, mib):
    text = SIBLINGS[f"Qwen/Qwen3.5-{name}"].text
    assert 512 * 4 * (text.vocab_size + 2 * text.hidden_size) == mib * MIB


@pytest.mark.parametrize(("ctx", "mib"), [(32_768, 544), (262_144, 4_352), (1_000_192, 16_604.75)])
def test_keys_and_values_of_the_9b_in_q8_0(ctx, mib):
    numbers = sizes.attention_layers(SIBLINGS["Qwen/Qwen3.5-9B"].text) * 2 * 4 * 256
    assert ctx * numbers * 34 / 32 / MIB == mib


def test_the_load_of_vllm_holds_the_weights():
    weights = sum(each.nbytes for each in of("bf16").weights)
    assert weights / GIB == pytest.approx(8.61, rel=0.025)
