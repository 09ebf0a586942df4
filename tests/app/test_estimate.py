"""The estimate: known answers, and the same bytes as what is allocated."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.make_checkpoint import CONFIG_4B, DATA_BYTES
from qwen35cli.app import estimate, load, stored
from qwen35cli.app.estimate import GIB, MIB, Estimate, Setting, planned, ways_out
from qwen35cli.checkpoint.names import parameter_shapes
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.kernels import select
from qwen35cli.model import sizes
from qwen35cli.model.cache import FEW
from qwen35cli.model.config import Config
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.model.siblings import SIBLINGS
from qwen35cli.quant.plan import Scheme, recipe
from tests.tiny import tiny_config, write_tiny_checkpoint

CPU = torch.device("cpu")
NAME = "Qwen/Qwen3.5-4B"
FOUR = SIBLINGS[NAME]


def of(quant="int4", group=None, **setting):
    return Estimate(
        planned(NAME, FOUR, recipe(quant, group)), Setting(**({"ctx": 131_072} | setting))
    )


def part(estimate, name):
    return next(each.nbytes for each in estimate.parts if each.name == name)


def weights(config, scheme=None):
    """Parameters of text, vision and MTP."""
    found = {"text": 0, "vision": 0, "mtp": 0}
    for name, shape in sizes.parameters(config).items():
        where = {"visual": "vision", "mtp": "mtp"}.get(name.split(".")[0], "text")
        found[where] += math.prod(shape)
    return found


# -- known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tensors", "total", "nbytes", "text", "vision", "mtp"),
    [
        ("0.8B", 488, 873_438_784, 1_746_882_752, 752_393_024, 100_592_896, 20_452_864),
        ("2B", 632, 2_274_069_824, 4_548_144_832, 1_881_825_088, 331_416_576, 60_828_160),
        ("4B", 738, 4_659_865_088, 9_319_737_856, 4_205_751_296, 333_514_240, 120_599_552),
        ("9B", 775, 9_653_104_368, 19_306_216_416, 8_953_803_264, 456_010_480, 243_290_624),
        ("27B", 1199, 27_781_427_952, 55_562_872_800, 26_895_998_464, 460_730_096, 424_699_392),
    ],
)
def test_parameters_and_bytes_of_the_five_sizes(name, tensors, total, nbytes, text, vision, mtp):
    config = SIBLINGS[f"Qwen/Qwen3.5-{name}"]
    shapes = sizes.parameters(config)
    assert len(shapes) == tensors
    assert sum(map(math.prod, shapes.values())) == total
    assert sum(math.prod(s) * sizes.itemsize(n) for n, s in shapes.items()) == nbytes
    assert weights(config) == {"text": text, "vision": vision, "mtp": mtp}


def test_the_built_in_4b_is_what_its_config_says():
    assert Config.from_dict(CONFIG_4B) == FOUR
    assert pytest.approx(8.6797, abs=5e-5) == DATA_BYTES / GIB


@pytest.mark.parametrize(
    ("quant", "group", "text", "both", "everything"),
    [
        ("bf16", None, 7.8338, 9_078_538_752, 8.6797),
        ("int8", None, 3.9240, 4_880_438_784, 4.6577),
        ("int4", 32, 2.6062, 3_465_385_472, 3.3398),
        ("int4", 64, 2.5122, 3_364_460_032, 3.2458),
        ("int4", 128, 2.4652, 3_313_997_312, 3.1988),
        ("nf4", 64, 2.4661, 3_314_969_248, 3.1997),
        ("nf4", 32, 2.5138, 3_366_220_448, 3.2474),
    ],
)
def test_the_sizes_of_the_recipes_on_disk(quant, group, text, both, everything):
    """Ours has 16 bytes for the shape of each matrix of its own kinds, 256 in all; those of nf4
    have 256 for bitsandbytes' note, where the known figures count 4 for the offset."""
    model = planned(NAME, FOUR, recipe(quant, group))
    shapes = parameter_shapes(FOUR)
    found = {"text": 0, "vision": 0, "mtp": 0}
    plain = 0
    for name, held in model.weights.items():
        kind = held.scheme.kind
        nbytes = held.nbytes if kind == "keep" else held.scheme.nbytes(shapes[name])
        nbytes -= {"keep": 0, "int8": 16, "int4": 16, "nf4": 256 - 4}[kind]
        where = "mtp" if name.startswith("mtp.") else "text"
        found["vision" if ".visual." in name else where] += nbytes
        plain += kind != "keep"

    assert found["text"] + found["vision"] == both
    assert found["text"] / GIB == pytest.approx(text, abs=1e-4)
    assert sum(found.values()) / GIB == pytest.approx(everything, abs=1e-4)
    if quant != "bf16":
        assert found["mtp"] == 120_685_568


@pytest.mark.parametrize(
    ("kv_dtype", "ctx", "mib"),
    [
        ("bf16", 1_024, 32),
        ("bf16", 8_192, 256),
        ("bf16", 32_768, 1_024),
        ("bf16", 131_072, 4_096),
        ("bf16", 262_144, 8_192),
        ("bf16", 1_010_000, 31_562.5),
        ("int8", 8_192, 129),
        ("int8", 131_072, 2_064),
        ("int8", 262_144, 4_128),
    ],
)
def test_keys_and_values(kv_dtype, ctx, mib):
    estimate = of(ctx=ctx, kv_dtype=kv_dtype, drafts=2)
    assert part(estimate, "kv_cache") == mib * MIB
    assert part(estimate, "mtp_kv_cache") == mib * MIB / 8
    assert estimate.kv_per_token == {"bf16": 36_864, "int8": 18_576}[kv_dtype]


@pytest.mark.parametrize(
    ("name", "per_token", "state", "conv"),
    [
        ("0.8B", 12_288, 18, 0.63),
        ("2B", 12_288, 18, 0.63),
        ("4B", 32_768, 48, 1.125),
        ("9B", 32_768, 48, 1.125),
        ("27B", 65_536, 144, 2.81),
    ],
)
def test_memory_of_the_siblings(name, per_token, state, conv):
    config = SIBLINGS[f"Qwen/Qwen3.5-{name}"]
    found = Estimate(planned(name, config, recipe("int4")), Setting(ctx=1))
    assert found.kv_per_token == per_token
    assert part(found, "delta_state") == state * MIB
    assert part(found, "conv_rows") / MIB == pytest.approx(conv, abs=0.005)


def test_the_state_with_rows_in_float32_is_what_llama_cpp_prints():
    on_cpu = of(device="cpu")
    assert part(on_cpu, "delta_state") + part(on_cpu, "conv_rows") == 50.25 * MIB


@pytest.mark.parametrize(
    ("published", "formula"),
    [
        (8.46, lambda count, rows, vision: 2 * (count["text"] + count["vision"])),
        # LLM.int8: linears of text and vision in int8 with float32 row scales
        (4.84, lambda count, rows, vision: _llm_int8(count, rows, vision)),
        (3.08, lambda count, rows, vision: _nf4(count, vision)),
    ],
    ids=["bf16", "llm.int8", "nf4"],
)
def test_published_loads(published, formula):
    """Counted with our shapes: within half a percent of what other runners report."""
    shapes = sizes.parameters(FOUR)
    linear = {n: s for n, s in shapes.items() if len(s) == 2 and "embed" not in n}
    text = {n: s for n, s in linear.items() if n.startswith("language_model.")}
    vision = {n: s for n, s in linear.items() if n.startswith("visual.") and "pos_embed" not in n}
    assert (len(text), sum(s[0] for s in text.values())) == (248, 1_132_032)
    rows = sum(s[0] for s in text.values()) + sum(s[0] for s in vision.values())
    found = formula(weights(FOUR), rows, sum(map(math.prod, vision.values())))
    assert found / GIB == pytest.approx(published, rel=0.005)


LINEARS = 3_569_090_560


def _llm_int8(count, rows, vision):
    whole = count["text"] + count["vision"] - LINEARS - vision
    return LINEARS + vision + 4 * rows + 2 * whole


def _nf4(count, vision):
    whole = count["text"] + count["vision"] - LINEARS - vision
    return (LINEARS + vision) * (0.5 + 1 / 64 + 4 / (256 * 64)) + 2 * whole


def test_the_blocks_and_capacities_of_vllm():
    """A page of keys must hold a state: that gives the block; the pool then gives the tokens."""
    text = FOUR.text
    layer = sizes.state_bytes(text) // 24 + sizes.conv_bytes(text, 2) // 24
    page = sizes.kv_bytes_per_token(text)
    assert layer == 2_146_304
    block = math.ceil(layer / page / 16) * 16
    assert block == 528
    assert block * page / layer - 1 == pytest.approx(0.0076, abs=5e-5)
    each = 8 * block * page

    def capacity(pool_gib, length, groups):
        blocks = int(pool_gib * GIB) // each
        return int(blocks / (math.ceil(length / block) + groups) * length)

    assert capacity(11.11, 1_024, 3) == pytest.approx(141_107, abs=1)
    assert capacity(2.1, 16_384, 6) == pytest.approx(56_050, abs=1)
    assert 468 // 4 * block == 61_776  # an older release divided its blocks by its groups


CONTEXTS = (1_024, 8_192, 32_768, 131_072, 262_144, 1_010_000)


@pytest.mark.parametrize(
    ("quant", "kv_dtype", "totals", "moved"),
    [
        ("bf16", "bf16", "9.10 9.32 10.07 13.07 17.07 39.89", "8.55 8.78 9.59 12.81 17.10 41.61"),
        ("bf16", "int8", "9.08 9.19 9.57 11.08 13.10 24.60", "8.53 8.65 9.05 10.68 12.84 25.19"),
        ("int8", "bf16", "5.07 5.29 6.04 9.04 13.04 35.86", "4.35 4.58 5.39 8.61 12.90 37.41"),
        ("int8", "int8", "5.05 5.16 5.54 7.05 9.07 20.57", "4.33 4.45 4.86 6.48 8.64 20.99"),
        ("int4", "bf16", "3.71 3.93 4.68 7.68 11.68 34.50", "2.93 3.17 3.97 7.19 11.49 36.00"),
        ("int4", "int8", "3.70 3.81 4.18 5.70 7.71 19.21", "2.92 3.03 3.44 5.06 7.23 19.58"),
        ("nf4", "bf16", "3.57 3.79 4.54 7.54 11.54 34.36", "2.78 3.02 3.82 7.04 11.34 35.84"),
        ("nf4", "int8", "3.55 3.66 4.04 5.55 7.57 19.07", "2.77 2.88 3.29 4.91 7.08 19.43"),
    ],
)
def test_totals_and_bytes_per_token(quant, kv_dtype, totals, moved):
    """The known figures hold the factors of nf4 in 8 bits; ours are float32 in memory: 3.0 bytes
    more for each block of 64 weights, and 3 % slack on them. They know no logs and buffers of ours,
    which `triton` adds: see the next test."""
    blocks = 3_229_614_080 / 64 if quant == "nf4" else 0
    more = blocks * (4 - 1 - 4 / 256)
    for ctx, total, gb in zip(CONTEXTS, totals.split(), moved.split(), strict=True):
        estimate = of(quant, ctx=ctx, kv_dtype=kv_dtype)
        assert (estimate.total - 1.03 * more) / GIB == pytest.approx(float(total), abs=0.01)
        assert (estimate.decode_bytes - more) / 1e9 == pytest.approx(float(gb), abs=0.01)


@pytest.mark.parametrize("quant", ["bf16", "int8", "int4"])
def test_what_the_kernels_of_a_gpu_add_to_the_known_totals(quant):
    """Two logs of 8 tokens in 24 layers; buffers with partial sums of 64 spans of the keys."""
    plain, ours = (of(quant, triton=triton) for triton in (False, True))
    log, buffers = 24 * 2 * 8 * (2 * 8_192 + 4 * (2_048 + 4_096 + 32)), 19_753_860
    assert (part(ours, "replay_log"), part(ours, "decode_buffers")) == (log, buffers)
    assert ours.total - plain.total == log + buffers
    assert ours.kv_per_token == plain.kv_per_token
    drafting = of(quant, triton=True, drafts=2)
    assert part(drafting, "replay_log") == log
    assert part(drafting, "decode_buffers") == buffers
    assert part(drafting, "draft_buffers") == 11_380_632 + (248_320 + 4_096) // 16 * 76


@pytest.mark.parametrize(
    ("quant", "kv_dtype", "chunk", "mib"),
    [
        ("int4", "bf16", 512, 56),
        ("int4", "bf16", 2_048, 224),
        ("int4", "bf16", 64, 32 + 2.875),  # a tile, beside gate and up
        ("bf16", "bf16", 64, 7),
        ("int4", "int8", 512, 128 + 35),  # keys and values of 16,384 tokens, twice
        ("bf16", "int8", 2_048, 128 + 140),
        ("nf4", "bf16", 512, 160 + 23),
    ],
)
def test_activations_of_a_chunk_on_a_gpu(quant, kv_dtype, chunk, mib):
    found = of(quant, kv_dtype=kv_dtype, chunk=chunk, triton=True)
    assert part(found, "activations") == mib * MIB
    assert part(found.changed(triton=False), "activations") == chunk * 112 * 1_024


def test_what_is_widened_at_once_is_what_the_kernels_widen():
    from qwen35cli.kernels.triton import attention, linear

    assert (estimate.TILE_BYTES, estimate.NF4_WEIGHTS) == (linear.TILE_BYTES, linear.BLOCK_WEIGHTS)
    assert estimate.KEY_BLOCK == attention.BLOCK


def test_the_largest_context_fits_and_a_larger_one_does_not():
    usable = 7 * GIB
    estimate = of()
    largest = estimate.largest_context(usable)
    assert estimate.changed(ctx=largest).fits(usable)
    assert not estimate.changed(ctx=largest + 256).fits(usable)
    assert estimate.largest_context(100 * GIB) == 262_144


def test_estimated_parts_lie_within_their_range_and_exact_ones_have_none():
    for device, triton in (("cuda", False), ("cuda", True), ("cpu", False)):
        for each in of(patches=(1_024,), drafts=3, batch=2, device=device, triton=triton).parts:
            assert each.low <= each.nbytes <= each.high
            assert each.exact == (each.low == each.high)


# -- the same bytes as what is allocated -----------------------------------------------------------

RAW = {
    "tied": tiny_config(),
    "untied": tiny_config(tied=False, value_heads=6),
    "bare": tiny_config(vision=False, mtp=False),
}


@pytest.mark.parametrize("config", [*(Config.from_dict(raw) for raw in RAW.values()), FOUR])
def test_shapes_are_those_of_the_classes(config):
    with torch.device("meta"):
        model = Qwen35(config, select(CPU, "reference"))
    shapes = sizes.parameters(config)
    found = {name: (tuple(p.shape), p.element_size()) for name, p in model.named_parameters()}
    assert found == {name: (shape, sizes.itemsize(name)) for name, shape in shapes.items()}


def test_the_log_is_as_long_as_the_cache_has_it():
    assert sizes.LOGGED == FEW


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("drafts", [0, 2])
@pytest.mark.parametrize("triton", [False, True])
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("raw", RAW)
def test_memory_is_what_the_caches_take(raw, kv_dtype, triton, drafts, batch):
    config = Config.from_dict(RAW[raw])
    drafts = drafts if config.text.mtp_num_hidden_layers else 0
    model = planned(raw, config, recipe("bf16"))
    for device in ("meta", "cpu"):
        with torch.device(device):
            built = Qwen35(config, select(CPU, "reference"))
        dtype = load.KV_DTYPES[kv_dtype]
        cache = built.make_cache(700, dtype, batch, drafts=drafts > 0, undo=triton)
        place = {"meta": "cuda", "cpu": "cpu"}[device]  # of the activations: bf16 or float32
        setting = Setting(
            ctx=700, kv_dtype=kv_dtype, drafts=drafts, batch=batch, device=place, triton=triton
        )
        assert sum(each.nbytes for each in Estimate(model, setting).memory) == cache.nbytes()


def with_tokenizer(folder: Path, raw: dict[str, Any]) -> Path:
    """A tiny checkpoint with the demo's tokenizer, and with its token for pictures."""
    demo = load.resolve("demo").folder
    image = json.loads((demo / "config.json").read_text())["image_token_id"]
    write_tiny_checkpoint(folder, raw | {"image_token_id": image})
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((demo / file).read_bytes())
    return folder


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("quant", ["bf16", "int8", "int4", "nf4"])
@pytest.mark.parametrize("name", ["demo", "tiny", "tiny untied"])
def test_a_loaded_checkpoint_takes_what_was_estimated(name, quant, kv_dtype, tmp_path):
    """Planned from the bf16 checkpoint and read from the quantized one; both equal the tensors."""
    from qwen35cli.app import quantize

    if name != "demo":
        name = str(with_tokenizer(tmp_path / "tiny", tiny_config(tied=name == "tiny")))
    for drafts in (0, 2):
        options = load.LoadOptions(
            model=name,
            device="cpu",
            ctx=640,
            kv_dtype=kv_dtype,
            quant=quant,
            store=tmp_path / "store",
            mtp=drafts or "off",
        )
        opened = load.open_model(options, lambda job: [*quantize.run(job)] and None)
        loaded = load.load(opened)
        runner = loaded.runner
        expected = sum(p.nbytes for p in runner.model.parameters()) + runner.cache.nbytes()
        setting = replace(opened.estimate.setting, drafts=drafts)
        planned_model = stored.model(name, quant, None, None)
        for model in (opened.estimate.model, planned_model):
            estimate = Estimate(model, setting)
            exact = sum(each.nbytes for each in (*estimate.weights, *estimate.memory))
            assert exact - part_or_none(estimate, "draft_head") == expected


@pytest.mark.parametrize(("quant", "group"), [("int4", 64), ("int4", 128), ("nf4", 32)])
def test_other_groups_take_what_was_estimated(quant, group, tmp_path):
    from qwen35cli.app import quantize

    folder = tmp_path / "weights"
    [*quantize.run(quantize.job(load.resolve("demo"), recipe(quant, group), folder))]
    opened = load.open_model(load.LoadOptions(model=str(folder), device="cpu", ctx=640))
    runner = load.load(opened).runner
    expected = sum(p.nbytes for p in runner.model.parameters()) + runner.cache.nbytes()
    for model in (opened.estimate.model, stored.model("demo", quant, group, None)):
        estimate = Estimate(model, opened.estimate.setting)
        assert sum(each.nbytes for each in (*estimate.weights, *estimate.memory)) == expected


WHOLE = {"vocab": 2_048, "hidden_size": 128, "intermediate_size": 256}  # tiles
TAKEN = {
    "demo": None,
    "narrow": tiny_config(**WHOLE, linear_value_head_dim=32),
    # Several programs for a delta head, a query head for each of keys, and a head of its own.
    "wide": tiny_config(tied=False, **WHOLE, linear_value_head_dim=64, num_key_value_heads=4),
}
LEFT = {  # what the steps do not take is decoded op by op, with the logs alone
    "heads of 48": tiny_config(**WHOLE),
    "half a tile": tiny_config(intermediate_size=256, linear_value_head_dim=64),
    "three taps": tiny_config(**WHOLE, linear_value_head_dim=32, linear_conv_kernel_dim=3),
}


@pytest.mark.parametrize("name", SIBLINGS)
def test_decode_buffers_of_every_size_on_a_card_of_132_sms(name):
    """On the meta device; from 4,096 tokens of context on it takes all that is counted."""
    from qwen35cli.engine.graph import RING, UNIFORMS, Stepper
    from qwen35cli.kernels.triton.attend_step import RESIDENT, TUNING, room_of

    config, meta = SIBLINGS[name], torch.device("meta")
    text, V = config.text, config.text.vocab_size
    with meta:
        model = Qwen35(config, select(CPU, "triton"))
    step = model.token_step(cache := model.make_cache(4_096, undo=True))
    least = min(tuning.least for tuning in TUNING.values())
    splits = min(RESIDENT * 132 // text.num_key_value_heads, 1 + 4_096 // least)
    heads = text.num_attention_heads, text.num_key_value_heads
    attend = room_of(meta, *heads, text.head_dim, FEW, splits)
    step.room = replace(step.room, attend=attend)
    drawing = model.kernels.draws(meta, V, V - 100, UNIFORMS, RING)
    found = [*Stepper(model, cache, step).tensors(), *drawing.tensors()]
    expected = part(
        Estimate(planned(name, config, recipe("bf16")), Setting(ctx=4_096, triton=True)),
        "decode_buffers",
    )
    assert sum(tensor.nbytes for tensor in found) == expected


@pytest.mark.parametrize(
    ("name", "quant", "drafts"),
    [
        *((name, quant, 0) for name in TAKEN for quant in ("bf16", "int8", "int4")),
        *(("demo", quant, 2) for quant in ("bf16", "int8", "int4", "nf4")),
        *(("wide", quant, 0) for quant in ("nf4", "mixed")),
        *((name, "bf16", 0) for name in LEFT),
        *((name, "bf16", 2) for name in ("three taps", "half a tile")),  # the one's drafts are
    ],
)
def test_decode_buffers_are_what_the_steps_allocate(name, quant, drafts, tmp_path):
    """And the drafts. In the interpreter, where nothing is launched; on a card attention has more
    programs."""
    from qwen35cli.app import quantize

    source = load.resolve("demo")
    if name != "demo":
        source = load.resolve(str(with_tokenizer(tmp_path / "tiny", (TAKEN | LEFT)[name])))
    if quant != "bf16":
        plan = recipe("int4" if quant == "mixed" else quant)
        if quant == "mixed":
            plan = replace(plan, rules=(("*.mlp.up_proj.weight", Scheme("int8")), *plan.rules))
        [*quantize.run(quantize.job(source, plan, tmp_path / "weights"))]
        source = load.resolve(str(tmp_path / "weights"))
    options = load.LoadOptions(
        model=str(source.folder), device="cpu", kernels="triton", ctx=640, mtp=drafts or "off"
    )
    opened = load.open_model(options)
    runner = load.load(opened).runner
    estimate, text = opened.estimate, opened.checkpoint.config.text
    expected = runner.cache.nbytes() + part_or_none(estimate, "draft_head")
    taken = name in TAKEN and quant not in ("nf4", "mixed")
    assert estimate.model.has_steps == (runner.stepper is not None) == taken
    if taken:
        sampler = Sampler(Sampling(temperature=0), opened.tokenizer.vocab_size)
        runner.checks(sampler) if drafts else runner.ahead(sampler)
        expected += sum(tensor.nbytes for tensor in runner.stepper.tensors())
        splits = runner.stepper._step.room.attend.splits
        expected += sizes.step_bytes(text) - sizes.step_bytes(text, splits)
    if drafts:
        loop = runner.drafter._loop
        assert estimate.model.has_draft_loop == (loop is not None) == (name != "half a tile")
        if loop is not None:
            expected += sum(tensor.nbytes for tensor in loop.tensors())
            splits = loop.room.attend.splits
            expected += sizes.draft_bytes(text) - sizes.draft_bytes(text, splits)
            tables = loop._listed(runner.drafter.head.candidates).choices
            nbytes = sum(each.nbytes for each in (tables.tiles, tables.ids, tables.best))
            most = sizes.shortlist_bytes(text)
            assert nbytes <= most <= 1.1 * nbytes  # which has room for padding rows too
            expected += most
    assert sum(each.nbytes for each in estimate.memory) == expected


def part_or_none(estimate, name):
    return sum(each.nbytes for each in estimate.parts if each.name == name)


@pytest.mark.parametrize("quant", ["bf16", "int8", "int4"])
def test_the_rows_of_the_draft_head_are_counted(quant):
    from qwen35cli.kernels.operands import Int4, Int8
    from qwen35cli.model.draft_head import DraftHead

    V, D = 70_000, 64
    config = Config.from_dict(tiny_config(vocab=V))
    estimate = Estimate(planned("tiny", config, recipe(quant)), Setting(ctx=1, drafts=1))
    scheme = Scheme("keep") if quant == "bf16" else Scheme("int8")
    head = torch.zeros(V, D, dtype=torch.bfloat16)
    if scheme.kind == "int8":
        packed = torch.zeros(V, D // 4, dtype=torch.int32)
        head = Int8(packed, torch.zeros(V, 1, dtype=torch.bfloat16), (V, D))
    made = DraftHead(select(CPU, "reference"), head, tokens=V, control=V - 10)
    room = made._room
    rows = [room] if isinstance(room, torch.Tensor) else [room.packed, room.scale]
    assert not isinstance(room, Int4)
    assert part(estimate, "draft_head") == sum(t.nbytes for t in (*rows, made._ids))


# -- ways out --------------------------------------------------------------------------------------

ALL = ("--ctx", "--kv-dtype", "--quant", "--mtp", "--no-vision")


@pytest.mark.parametrize(
    ("estimate", "usable", "allow", "expected"),
    [
        (of(), 6 * GIB, ALL, ["--kv-dtype int8", "--ctx 75776"]),
        (of(), 6 * GIB, ("--ctx",), ["--ctx 75776"]),
        (of(ctx=262_144), 7.63 * GIB, ALL, ["--ctx 129280", "--kv-dtype int8 --ctx 256768"]),
        (of("bf16", ctx=8_192), 8 * GIB, ALL, ["--quant int4"]),
        (of(ctx=8_192), 3.5 * GIB, ALL, ["--no-vision"]),
        (of(ctx=8_192), 1 * GIB, ALL, []),
    ],
)
def test_ways_out_are_those_that_work(estimate, usable, allow, expected):
    found = ways_out(estimate, round(usable), allow=allow)
    assert found[: len(expected)] == expected
    assert len(found) <= 2
