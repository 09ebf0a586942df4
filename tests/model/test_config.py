"""Every number of a config.json is checked before anything is allocated."""

import copy
import subprocess
import sys

import pytest

from qwen35cli.errors import ModelError
from qwen35cli.model.config import CEILINGS, Config
from tests.tiny import tiny_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262_144}


def changed(section, **values):
    raw = copy.deepcopy(tiny_config())
    (raw[section] if section else raw).update(values)
    return raw


def without(section, name):
    raw = copy.deepcopy(tiny_config())
    del (raw[section] if section else raw)[name]
    return raw


def test_reads_every_part():
    config = Config.from_dict(tiny_config(tied=False))
    assert not config.tie_word_embeddings
    assert config.text.layer_types.count("full_attention") == 2
    assert config.text.conv_channels == 2 * 2 * 32 + 4 * 48
    assert config.text.rotary.dim == 16
    assert config.vision is not None
    assert config.vision.patch_values == 3 * 2 * 16 * 16
    assert config.vision.grid_side == 6


def test_the_tie_flag_of_the_text_counts_where_both_exist():
    raw = changed(None, tie_word_embeddings=True)
    raw["text_config"]["tie_word_embeddings"] = False
    assert not Config.from_dict(raw).tie_word_embeddings
    del raw["text_config"]["tie_word_embeddings"]
    assert Config.from_dict(raw).tie_word_embeddings


def test_layer_types_follow_the_interval_where_they_are_not_written_out():
    config = Config.from_dict(without("text_config", "layer_types"))
    assert config.text.layer_types == (*["linear_attention"] * 3, "full_attention") * 2


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_absurd_numbers_are_refused_with_the_field_and_the_ceiling(section):
    raw = tiny_config()
    checked = [
        name for name in raw[section] if name in CEILINGS and name != "full_attention_interval"
    ]
    assert len(checked) >= 10
    for name in checked:
        for value in (CEILINGS[name] + 1, 2**63, -1, 0.5, "8", True, None):
            with pytest.raises(ModelError, match=rf"{name} is .*{CEILINGS[name]:,}") as refusal:
                Config.from_dict(changed(section, **{name: value}))
            assert refusal.value.exit_code == 3


@pytest.mark.parametrize(
    ("section", "name"),
    [
        (None, "text_config"),
        (None, "image_token_id"),
        ("text_config", "hidden_size"),
        ("text_config", "rope_parameters"),
        ("vision_config", "depth"),
    ],
)
def test_a_missing_field_is_named(section, name):
    with pytest.raises(ModelError, match=f"has no {name}"):
        Config.from_dict(without(section, name))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed(None, architectures=["Qwen3ForCausalLM"]), "Qwen3ForCausalLM model"),
        (changed(None, architectures=[]), "qwen3_5 model"),
        (changed("text_config", layer_types=["linear_attention"]), "1 layer_types for 8 layers"),
        (changed("text_config", layer_types=["mamba"] * 8), "layer_types is"),
        (changed("text_config", num_key_value_heads=3), "a multiple of num_key_value_heads"),
        (changed("text_config", hidden_act="gelu"), "'silu'"),
        (changed("text_config", attn_output_gate=False), "True"),
        (changed("vision_config", out_hidden_size=63), "the text hidden_size 64"),
        (changed("vision_config", num_position_embeddings=37), "a square"),
        (changed("vision_config", deepstack_visual_indexes=[1]), r"must be \[\]"),
        (changed(None, text_config=7), "an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_together_is_refused(raw, message):
    with pytest.raises(ModelError, match=message):
        Config.from_dict(raw)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_type": "llama3"}, "default or yarn"),
        ({"mrope_section": [11, 11, 10]}, "sum to 8"),
        ({"mrope_section": [8, 0]}, "sum to 8"),
        ({"mrope_section": [9, -1, 0]}, "sum to 8"),
        ({"partial_rotary_factor": 0.0}, "even share of head_dim 32"),
        ({"rope_type": "yarn"}, "has no factor"),
        ({"rope_type": "yarn", "attention_factor": 1.0}, "must be None"),
        ({"rope_type": "yarn", "mscale": 1.0}, "must be None"),
        ({"rope_type": "yarn", "truncate": False}, "must be True"),
        ({"rope_theta": 1.0}, "rope_theta"),
        ({**YARN, "beta_slow": 0}, "beta_slow"),
        ({**YARN, "beta_fast": 0}, "beta_fast"),
    ],
    ids=str,
)
def test_rotary_parameters_are_checked(values, message):
    raw = copy.deepcopy(tiny_config())
    raw["text_config"]["rope_parameters"].update(values)
    with pytest.raises(ModelError, match=message):
        Config.from_dict(raw)


def test_yarn_at_the_old_place_is_not_passed_over():
    raw = tiny_config()
    raw["text_config"]["rope_scaling"] = YARN
    with pytest.raises(ModelError, match="rope_scaling"):
        Config.from_dict(raw)
    raw["text_config"]["rope_scaling"] = None
    assert Config.from_dict(raw).text.rotary.yarn is None


def test_yarn_in_the_old_spelling_is_read():
    raw = copy.deepcopy(tiny_config())
    rope = raw["text_config"]["rope_parameters"]
    rope |= YARN | {"type": "yarn"}
    del rope["rope_type"]
    assert Config.from_dict(raw).text.rotary.yarn is not None


def test_yarn_is_read():
    raw = copy.deepcopy(tiny_config())
    raw["text_config"]["rope_parameters"].update(YARN)
    assert Config.from_dict(tiny_config()).text.max_context == 4096
    text = Config.from_dict(raw).text
    assert text.max_context == 1_048_576
    yarn = text.rotary.yarn
    assert yarn is not None
    assert (yarn.factor, yarn.beta_fast, yarn.beta_slow) == (4.0, 32.0, 1.0)


def test_reading_a_config_needs_no_torch():
    code = "import sys, qwen35cli.model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
