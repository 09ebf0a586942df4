"""Quantized checkpoints, written and read: tiny models from end to end."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen35cli.checkpoint import convert
from qwen35cli.checkpoint.convert import file_layout, quantize_checkpoint
from qwen35cli.checkpoint.names import CONFIG, SINGLE
from qwen35cli.checkpoint.opened import file_schemes, open_checkpoint
from qwen35cli.checkpoint.read import load_weights
from qwen35cli.checkpoint.write import write_checkpoint
from qwen35cli.errors import ModelError
from qwen35cli.kernels import reference, select
from qwen35cli.model.config import Config
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant import codec
from qwen35cli.quant.codec import dequantize
from qwen35cli.quant.leaves import Int8Embedding, NF4Linear, Quantized
from qwen35cli.quant.plan import Plan, assign, describe, recipe
from tests.tiny import checkpoint_state, tiny_config, tiny_model, write_tiny_checkpoint

CPU = torch.device("cpu")
LAYER = "model.language_model.layers.0"
UP = f"{LAYER}.mlp.up_proj"
EMBED = "model.language_model.embed_tokens"
IDS = torch.arange(40).view(1, 40) * 7


def write_quantized(source, folder, plan: Plan):
    """What `qwen35 quantize` does, without its care for crashes."""
    checkpoint = open_checkpoint(source)
    kernels = select(CPU, "reference")
    state = {}
    for _, tensors in quantize_checkpoint(checkpoint, plan, kernels):
        state |= tensors
    schemes = assign(plan, {name: t.shape for name, t in checkpoint.tensors.items()})
    section = {"quantization_config": describe(plan.format, schemes)}
    write_checkpoint(folder, state, dict(checkpoint.raw_config) | section)
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    return write_tiny_checkpoint(folder, tiny_config(tied=request.param, layers=4))


@pytest.fixture(scope="module", params=["int4", "int8", "nf4"])
def quantized(request, source, tmp_path_factory):
    return write_quantized(source, tmp_path_factory.mktemp(request.param), recipe(request.param))


@pytest.fixture
def int4(tmp_path):
    """A sound int4 checkpoint, to be damaged."""
    source = write_tiny_checkpoint(tmp_path / "source", tiny_config(layers=4))
    return write_quantized(source, tmp_path / "int4", recipe("int4"))


@pytest.fixture
def nf4(tmp_path):
    # 128, as bitsandbytes with AVX-512 takes rows in 32s, of whole blocks of 64
    raw = tiny_config(layers=4, intermediate_size=128)
    source = write_tiny_checkpoint(tmp_path / "source", raw)
    return write_quantized(source, tmp_path / "nf4", recipe("nf4"))


def load(folder, backend="reference", **without) -> Qwen35:
    checkpoint = open_checkpoint(folder)
    raw = dict(checkpoint.raw_config)
    if without:
        raw |= {k: v for k, v in tiny_config(layers=4, **without).items() if k == "text_config"}
        raw.pop("vision_config")
    with torch.device("meta"):
        model = Qwen35(Config.from_dict(raw), select(CPU, backend))
    load_weights(model, checkpoint, CPU)
    return model


def logits(model: Qwen35) -> torch.Tensor:
    positions = torch.arange(IDS.shape[1]).expand(3, *IDS.shape)
    return model.logits(model.language_model(model.embed(IDS), positions, None))


def plain(folder) -> Qwen35:
    """The model of a quantized folder with its weights undone into float32, in our own leaves."""
    checkpoint = open_checkpoint(folder)
    raw = {k: v for k, v in checkpoint.raw_config.items() if k != "quantization_config"}
    model = tiny_model(raw)
    names = dict(zip(checkpoint_state(model), model.state_dict(), strict=True))
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint_state(model).items()}
    state, found = {}, load_file(folder / SINGLE)
    for name, scheme in checkpoint.schemes.items():
        path = name.removesuffix("weight")
        if name in found and found[name].dtype == torch.bfloat16:  # int8 of nf4
            packed, scale = reference.quantize_int8(found.pop(name))
            tensors = {"weight_packed": packed, "weight_scale": scale}
        else:
            tensors = {
                n.removeprefix(path): t for n, t in found.items() if n.startswith(path + "w")
            }
            for suffix in tensors:
                del found[path + suffix]
        state[name] = dequantize(tensors, scheme, shapes[name])
    values = state | found
    model.load_state_dict({ours: values[name].float() for name, ours in names.items()})
    return model


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_quantized_model_computes_with_the_weights_its_file_stands_for(quantized, backend):
    expected, found = logits(plain(quantized)), logits(load(quantized, backend))
    # The reference differs in the order of sums only. Compiled kernels may round activations to
    # 8 bits, and random weights amplify what is lost, as they do in the next test.
    if backend == "reference":
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
    else:
        assert (found - expected).square().mean().sqrt() < 0.12 * expected.std()


def test_a_quantized_model_is_near_its_source(source, quantized):
    expected, found = logits(load(source)), logits(load(quantized))
    share = {"int8": 0.15, "int4": 0.9, "nf4": 0.9}[open_checkpoint(quantized).format]
    # random weights amplify: of two unrelated models it would be 1.4
    assert 1e-4 < (found - expected).square().mean().sqrt() / expected.std() < share


def test_the_file_is_as_laid_out(source, quantized):
    format = open_checkpoint(quantized).format
    expected = file_layout(open_checkpoint(source), recipe(format))
    found = load_file(quantized / SINGLE)
    assert found.keys() == expected.keys()
    for name, meta in expected.items():
        assert (found[name].shape, found[name].dtype) == (meta.shape, meta.dtype), name


def test_what_is_kept_is_kept_to_the_bit(source, quantized):
    before, after = load_file(source / SINGLE), load_file(quantized / SINGLE)
    checkpoint = open_checkpoint(quantized)
    kept = [n for n in before if n not in checkpoint.schemes or checkpoint.format == "nf4"]
    kept = [n for n in kept if n in after and after[n].dtype != torch.uint8]
    for part in ("in_proj_a", "in_proj_b", "conv1d", "norm", "A_log", "dt_bias", "visual"):
        assert any(part in name for name in kept), part
    for name in kept:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)), name


@pytest.mark.parametrize("format", ["int4", "nf4"])
def test_tensors_larger_than_a_block_come_out_alike(source, format, monkeypatch):
    checkpoint, kernels = open_checkpoint(source), select(CPU, "reference")
    whole = list(quantize_checkpoint(checkpoint, recipe(format), kernels))
    for module in (codec, convert):
        monkeypatch.setattr(module, "BLOCK_BYTES", 3_000)
    parts = list(quantize_checkpoint(checkpoint, recipe(format), kernels))
    assert (
        [name for name, _ in whole]
        == [name for name, _ in parts]
        == list(file_schemes(checkpoint, recipe(format)))
    )
    for (_, expected), (_, found) in zip(whole, parts, strict=True):
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(
                tensor.view(-1).view(torch.uint8), found[name].view(-1).view(torch.uint8)
            ), name


def test_a_tied_head_and_the_embedding_are_one_storage(quantized):
    model = load(quantized)
    embedding = model.language_model.embed_tokens
    assert isinstance(embedding, Int8Embedding)
    if model.lm_head is None:
        hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
        weight = reference.dequantize(embedding.operand)
        assert embedding.operand.packed.data_ptr() == embedding.weight_packed.data_ptr()
        torch.testing.assert_close(model.logits(hidden), hidden @ weight.T)
        assert torch.equal(model.embed(IDS)[0], weight[IDS[0]])
        assert "lm_head" not in "".join(name for name, _ in model.named_parameters())
    else:
        assert isinstance(model.lm_head, Quantized)


def test_parts_may_be_left_in_the_file(quantized):
    tied = open_checkpoint(quantized).config.tie_word_embeddings
    model = load(quantized, mtp=False, vision=False, tied=tied)
    assert model.mtp is None and model.visual is None
    torch.testing.assert_close(logits(model), logits(load(quantized)))


def test_the_mtp_layer_is_quantized_too(quantized):
    model = load(quantized)
    assert isinstance(model.mtp.fc, Quantized)
    embeds, hidden = torch.randn(2, 1, 5, 64, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(5).expand(3, 1, 5)
    torch.testing.assert_close(
        model.mtp(embeds, hidden, positions),
        plain(quantized).mtp(embeds, hidden, positions),
        rtol=2e-4,
        atol=2e-4,
    )


def test_transformers_reads_the_nf4_folder(nf4):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import Qwen3_5ForConditionalGeneration

        theirs = Qwen3_5ForConditionalGeneration.from_pretrained(nf4, dtype=torch.bfloat16)
        layer = theirs.model.language_model.layers[0]
        assert type(layer.mlp.up_proj).__name__ == "Linear4bit"
        assert type(layer.linear_attn.out_proj).__name__ == "Linear"
        with torch.no_grad():
            expected = theirs(input_ids=IDS).logits.float()
    model = load(nf4)
    assert isinstance(model.language_model.layers[0].mlp.up_proj, NF4Linear)
    # bfloat16 all the way, and no int8, on their side: 0.08 to 0.11 of a random model
    assert (logits(model) - expected).square().mean().sqrt() < 0.15 * expected.std()


# -- what is refused ------------------------------------------------------------------------------


def edit(folder, **tensors):
    """Replace tensors, or drop those that are None."""
    state = load_file(folder / SINGLE)
    for name, tensor in tensors.items():
        state.pop(name)
        if tensor is not None:
            state[name] = tensor
    save_file(state, folder / SINGLE)


def edit_schemes(folder, **schemes):
    config = json.loads((folder / CONFIG).read_text())
    config["quantization_config"]["tensors"] |= schemes
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("suffix", "tensor", "message"),
    [
        ("weight_packed", torch.zeros(112, 9, dtype=torch.int32), r"shape \[112, 9\].*\[112, 8\]"),
        ("weight_packed", torch.zeros(112, 8), "stored as F32, it must be I32"),
        ("weight_scale", None, rf"1 missing \({UP}.weight_scale\)"),
        ("weight_scale", torch.zeros(112, 2), "stored as F32, it must be BF16"),
        ("weight_scale", torch.full((112, 2), float("nan")).bfloat16(), "not finite"),
        ("weight_scale", torch.full((112, 2), float("inf")).bfloat16(), "not finite"),
        ("weight_shape", torch.tensor([112, 60]), r"is \[112, 60\].*asks for \[112, 64\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(int4, suffix, tensor, message):
    edit(int4, **{f"{UP}.{suffix}": tensor})
    with pytest.raises(ModelError, match=message):
        load(int4)


@pytest.mark.parametrize(
    ("name", "scheme", "message"),
    [
        (f"{LAYER}.input_layernorm.weight", "int4-g32", r"its shape is \[64\]"),
        (f"{LAYER}.linear_attn.conv1d.weight", "int8", "its shape is"),
        (f"{LAYER}.mlp.upp_proj.weight", "int8", "no such matrix"),
        (f"{EMBED}.weight", "int4-g32", "int8 only"),
        (f"{UP}.weight", "int8", "weight_packed has the shape"),
        (f"{LAYER}.linear_attn.in_proj_a.weight", "int8", "3 missing.*1 unexpected"),
        ("model.visual.pos_embed.weight", "int8", "only matrices"),
    ],
)
def test_schemes_that_do_not_fit_are_refused(int4, name, scheme, message):
    edit_schemes(int4, **{name: scheme})
    with pytest.raises(ModelError, match=message):
        load(int4)


def test_integers_are_refused_where_no_scheme_is(int4):
    state = load_file(int4 / SINGLE)
    name = f"{LAYER}.linear_attn.in_proj_a.weight"
    save_file(state | {name: state[name].to(torch.int32)}, int4 / SINGLE)
    with pytest.raises(ModelError, match="stored as I32, it must be BF16"):
        load(int4)


@pytest.mark.parametrize(
    "suffix",
    ["absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4"],
)
def test_an_nf4_matrix_needs_all_its_companions(nf4, suffix):
    edit(nf4, **{f"{UP}.weight.{suffix}": None})
    with pytest.raises(ModelError, match=rf"1 missing \({UP}.weight.{suffix}\)"):
        load(nf4)


def test_an_nf4_note_that_disagrees_is_refused(nf4):
    name = f"{UP}.weight.quant_state.bitsandbytes__nf4"
    state = load_file(nf4 / SINGLE)
    text = bytes(state[name].tolist()).replace(b'"blocksize": 64', b'"blocksize": 32')
    edit(nf4, **{name: torch.tensor(list(text), dtype=torch.uint8)})
    with pytest.raises(ModelError, match=rf"{UP}: blocksize is 32, it must be 64"):
        load(nf4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2e3])
@pytest.mark.parametrize("name", [f"{UP}.weight", f"{LAYER}.linear_attn.A_log", f"{EMBED}.weight"])
@pytest.mark.parametrize("format", ["int4", "nf4"])
def test_quantizing_refuses_absurd_weights_kept_or_not(tmp_path, name, value, format):
    write_tiny_checkpoint(tmp_path, tiny_config(layers=4))
    state = load_file(tmp_path / SINGLE)
    state[name].view(-1)[-1] = value
    save_file(state, tmp_path / SINGLE)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(ModelError) as refusal:
        for _ in quantize_checkpoint(checkpoint, recipe(format), select(CPU, "reference")):
            pass
    last = [size - 1 for size in state[name].shape]
    assert f"{name}{last} is {value:g}" in refusal.value.message


def test_quantizing_twice_is_refused(int4):
    with pytest.raises(ModelError, match=r"quantized already \(int4\)"):
        file_layout(open_checkpoint(int4), recipe("int8"))


def test_a_file_cut_short_is_refused(tmp_path):
    write_tiny_checkpoint(tmp_path, tiny_config(layers=4))
    checkpoint = open_checkpoint(tmp_path)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short"):
        list(quantize_checkpoint(checkpoint, recipe("int8"), select(CPU, "reference")))
