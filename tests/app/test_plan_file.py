"""Plan files, before the recipe that they change."""

import pytest

from qwen35cli.app.plan_file import read_plan
from qwen35cli.errors import UsageError
from qwen35cli.quant.plan import assign, recipe
from tests.quant.test_plan import LAYER, SHAPES


def written(tmp_path, text):
    (tmp_path / "plan.toml").write_text(text)
    return tmp_path / "plan.toml"


def test_a_plan_file_comes_before_the_recipe(tmp_path):
    path = written(
        tmp_path, '[tensors]\n"*.mlp.down_proj.weight" = "int8"\n"*in_proj_[ab]*" = "int4-g64"\n'
    )
    found = assign(read_plan(path, recipe("int4")), SHAPES)
    assert str(found[f"{LAYER}.mlp.down_proj.weight"]) == "int8"
    assert str(found[f"{LAYER}.linear_attn.in_proj_a.weight"]) == "int4-g64"
    assert str(found[f"{LAYER}.mlp.up_proj.weight"]) == "int4-g32"


def test_a_plan_file_may_be_as_editors_on_windows_leave_it(tmp_path):
    (tmp_path / "plan.toml").write_bytes(b"\xef\xbb\xbf[tensors]\r\n'*' = 'int8'\r\n")
    assert read_plan(tmp_path / "plan.toml", recipe("int8")).overrides == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tensors]\nx", "plan.toml, line 2: "),
        ("", "needs a table.*it has nothing"),
        ("tensors = 3", "it has tensors = 3"),
        ("[tensors]", "it has tensors = {}"),
        ("x = 1\n[tensors]\n'a' = 'int8'", "it has x"),
        ("[tensors]\n'*' = 'int5'", r"'\*'.*'int5' is none of"),
        ("[tensors]\n'*' = 4", "'4' is none of"),
        ("a = " + "[" * 5_000, "too long or too deep"),
        ("#" * (2**20 + 1), "it has more than 1 MiB"),
    ],
)
def test_a_wrong_plan_file_is_a_usage_error(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_plan(written(tmp_path, text), recipe("int4"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"*.mlp.dwn_proj.weight" = "int8"', "dwn_proj.*matches no matrix"),
        ('"*norm.weight" = "int8"', "matches no matrix"),
        ('"*.pos_embed.weight" = "int8"', "matches no matrix"),
        ('"*embed_tokens*" = "int4-g32"', "looked up"),
        ('"*.up_proj.weight" = "nf4-b64"', "in a checkpoint of format int4"),
    ],
)
def test_a_rule_that_cannot_be_carried_out_is_a_usage_error(tmp_path, line, message):
    plan = read_plan(written(tmp_path, "[tensors]\n" + line), recipe("int4"))
    with pytest.raises(UsageError, match=message):
        assign(plan, SHAPES)
