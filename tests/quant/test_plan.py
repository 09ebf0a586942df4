"""Recipes, and the plan inside a config."""

import subprocess
import sys

import pytest

from qwen35cli.errors import ModelError, UsageError
from qwen35cli.quant.plan import (
    Scheme,
    assign,
    describe,
    described,
    known_schemes,
    quantizable,
    recipe,
)

LAYER = "model.language_model.layers.0"
SHAPES = {
    "model.language_model.embed_tokens.weight": (248320, 2560),
    f"{LAYER}.input_layernorm.weight": (2560,),
    f"{LAYER}.linear_attn.A_log": (32,),
    f"{LAYER}.linear_attn.conv1d.weight": (8192, 1, 4),
    f"{LAYER}.linear_attn.in_proj_a.weight": (32, 2560),
    f"{LAYER}.linear_attn.in_proj_b.weight": (32, 2560),
    f"{LAYER}.linear_attn.in_proj_qkv.weight": (8192, 2560),
    f"{LAYER}.linear_attn.in_proj_z.weight": (4096, 2560),
    f"{LAYER}.linear_attn.norm.weight": (128,),
    f"{LAYER}.linear_attn.out_proj.weight": (2560, 4096),
    f"{LAYER}.mlp.gate_proj.weight": (9216, 2560),
    f"{LAYER}.mlp.up_proj.weight": (9216, 2560),
    f"{LAYER}.mlp.down_proj.weight": (2560, 9216),
    f"{LAYER}.self_attn.q_proj.weight": (8192, 2560),
    f"{LAYER}.self_attn.k_proj.weight": (1024, 2560),
    f"{LAYER}.self_attn.v_proj.weight": (1024, 2560),
    f"{LAYER}.self_attn.o_proj.weight": (2560, 4096),
    "model.visual.blocks.0.mlp.linear_fc1.weight": (4096, 1024),
    "model.visual.pos_embed.weight": (2304, 1024),
    "mtp.fc.weight": (2560, 5120),
    "mtp.layers.0.mlp.gate_proj.weight": (9216, 2560),
    "mtp.norm.weight": (2560,),
}
SMALL = (
    "gate_proj",
    "up_proj",
    "down_proj",
    "in_proj_qkv",
    "in_proj_z",
    "q_proj",
    "k_proj",
    "v_proj",
)


@pytest.mark.parametrize("format", ["int4", "nf4", "int8", "bf16"])
def test_the_recipe(format):
    found = assign(recipe(format), SHAPES)
    small = {"int4": "int4-g32", "nf4": "nf4-b64", "int8": "int8", "bf16": "keep"}[format]
    eight = "keep" if format == "bf16" else "int8"
    assert list(found) == list(SHAPES)
    for name, scheme in found.items():
        leaf = name.removesuffix(".weight").rpartition(".")[2]
        if len(SHAPES[name]) != 2 or "visual" in name or leaf in ("in_proj_a", "in_proj_b"):
            assert str(scheme) == "keep", name
        elif leaf in SMALL and not name.startswith("mtp."):
            assert str(scheme) == small, name
        else:
            assert str(scheme) == eight, name


def test_bytes_of_the_4b_recipe_are_what_the_table_says():
    down, head = Scheme.parse("int4-g32").nbytes((2560, 9216)), Scheme.parse("int8").nbytes
    assert down == 2560 * 9216 // 2 + 2560 * 9216 // 32 * 2 + 16
    assert head((248320, 2560)) == 248320 * 2562 + 16


@pytest.mark.parametrize("scheme", [str(scheme) for scheme in known_schemes()])
def test_schemes_are_read_as_written(scheme):
    assert str(Scheme.parse(scheme)) == scheme


@pytest.mark.parametrize(
    "text", ["int4", "int4-g16", "int8-g32", "nf4", "nf4-g64", "fp4", "", "INT8"]
)
def test_other_schemes_are_refused(text):
    with pytest.raises(ValueError, match="int4-g32"):
        Scheme.parse(text)


@pytest.mark.parametrize(("format", "group"), [("int3", None), ("int4", 16), ("nf4", 48)])
def test_a_wrong_format_or_group_is_a_usage_error(format, group):
    with pytest.raises(UsageError) as refusal:
        recipe(format, group)
    assert "|" in refusal.value.hint


@pytest.mark.parametrize("format", ["bf16", "int8"])
def test_a_group_is_refused_where_a_format_has_none(format):
    with pytest.raises(UsageError, match=f"{format} has no groups"):
        recipe(format, 32)


@pytest.mark.parametrize("format", ["int4", "int8", "nf4"])
def test_a_config_gives_back_what_it_was_told(format):
    schemes = assign(recipe(format), SHAPES)
    section = describe(format, schemes)
    assert described({"quantization_config": section}) == (
        format,
        {name: scheme for name, scheme in schemes.items() if scheme.kind != "keep"},
    )


def test_no_section_is_no_quantization():
    assert described({}) == ("bf16", {})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ([], "not an object"),
        ({"quant_method": "awq"}, "'awq'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({"quant_method": "qwen35", "version": 2}, "version 2, known is 1"),
        ({"quant_method": "qwen35", "version": True}, "version True"),
        ({"quant_method": "qwen35", "version": 1, "format": "int3"}, "'int3'"),
        ({"quant_method": "qwen35", "version": 1, "format": "int4"}, "no table of tensors"),
        (
            {"quant_method": "qwen35", "version": 1, "format": "int4", "tensors": {"a": "int2"}},
            "a: 'int2' is none of",
        ),
        (
            {"quant_method": "qwen35", "version": 1, "format": "int4", "tensors": {"a": 8}},
            "a: '8' is none of",
        ),
        (
            {"quant_method": "qwen35", "version": 1, "format": "int8", "tensors": {"a": "nf4-b64"}},
            "a is nf4-b64 in int8",
        ),
    ],
)
def test_a_config_that_we_do_not_read_is_refused(section, message):
    with pytest.raises(ModelError, match=message):
        described({"quantization_config": section})


def test_only_matrices_that_multiply_are_quantizable():
    assert quantizable("a.weight", (2, 2))
    assert not quantizable("a.weight", (2,)) and not quantizable("a.bias", (2, 2))


def test_planning_needs_no_torch():
    code = "import sys, qwen35cli.quant.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
