"""What the model's tensors and its memory take, from the config alone. Free of torch.

The classes that allocate are the authority: tests hold these sums to theirs, byte for byte.
"""

from collections.abc import Iterator
from typing import Literal

from .config import Config, LayerType, TextConfig, VisionConfig

Shape = tuple[int, ...]
KVDtype = Literal["bf16", "int8"]

LOGS, LOGGED = 2, 8  # logs of a delta layer whose tokens can be taken back; tokens of a step
COMMON = 65_536  # ids from the start of the vocabulary that drafts are picked from
USED = 4_096  # ids of the conversation that join them, at most
FLOAT32 = ("linear_attn.A_log", "linear_attn.norm.weight")  # all else is bf16


def itemsize(name: str) -> int:
    """Bytes of a number in the parameter `name`, unless it is quantized."""
    return 4 if name.endswith(FLOAT32) else 2


def parameters(config: Config) -> dict[str, Shape]:
    """The shape of every parameter of `Qwen35`, by its name there."""
    text = config.text
    V, D = text.vocab_size, text.hidden_size
    shapes: dict[str, Shape] = {"language_model.embed_tokens.weight": (V, D)}
    for index, kind in enumerate(text.layer_types):
        shapes |= _under(f"language_model.layers.{index}", _block(text, kind))
    shapes["language_model.norm.weight"] = (D,)
    if config.vision is not None:
        shapes |= _under("visual", _vision(config.vision))
    for index in range(text.mtp_num_hidden_layers):
        shapes |= _under("mtp", _joining(D))
        shapes |= _under(f"mtp.layers.{index}", _block(text, "full_attention"))
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (V, D)
    return shapes


def kv_bytes_per_token(text: TextConfig, kv_dtype: KVDtype = "bf16") -> int:
    """Bytes of keys and values of one token in one attention layer."""
    row = text.head_dim * 2 if kv_dtype == "bf16" else text.head_dim + 2  # codes and their scale
    return 2 * text.num_key_value_heads * row


def state_bytes(text: TextConfig) -> int:
    """Bytes of the float32 states of all delta layers, for one sequence."""
    heads = text.linear_num_value_heads
    state = heads * text.linear_key_head_dim * text.linear_value_head_dim
    return delta_layers(text) * state * 4


def conv_bytes(text: TextConfig, activation: int) -> int:
    """Bytes of the rows that the convolutions remember; `activation`: bytes of a number."""
    rows = text.linear_conv_kernel_dim - 1
    return delta_layers(text) * rows * text.conv_channels * activation


def log_bytes(text: TextConfig, activation: int) -> int:
    """Bytes of the logs from which the last tokens are taken back."""
    keys = text.linear_num_key_heads * text.linear_key_head_dim
    values = text.linear_num_value_heads * text.linear_value_head_dim
    token = text.conv_channels * activation + 4 * (keys + values + text.linear_num_value_heads)
    return delta_layers(text) * LOGS * LOGGED * token


# -- what decode steps on a GPU work in (`kernels/triton/`): once for a model --------------------

TILE, PIECES = 16, 12  # channels of a tile; programs at most that share its inputs


def step_bytes(text: TextConfig, splits: int | None = None) -> int:
    """Bytes that the launches of a step pass on to each other, and of the logits.

    Args:
        splits: programs that share the keys of a head in attention; None: the most there are.
    """
    numbers = 8 * LOGGED + 4 * 5  # ids of a step, and where it stands
    logits = 4 * LOGGED * text.vocab_size
    return _room_bytes(text, splits, delta=True) + logits + numbers


def draft_bytes(text: TextConfig, splits: int | None = None) -> int:
    """Bytes that the launches of drafts by the MTP layer pass on to each other."""
    D = text.hidden_size
    numbers = 8 * 2 * LOGGED + 4 * 2  # ids of the pairs and the drafts, and where they stand
    joined = _stream_bytes(D) + 2 * D + 2 * 2 * D
    return _room_bytes(text, splits, delta=False) + LOGGED * joined + numbers


def shortlist_bytes(text: TextConfig) -> int:
    """Bytes at most of what tells which rows of the head a draft on a GPU is picked from."""
    tiles = text.vocab_size // TILE + (USED // TILE if text.vocab_size > COMMON else 0)
    return tiles * (4 + 4 * TILE + 8)  # where it lies, its ids, the best of it


def _stream_bytes(D: int) -> int:
    """Of a token in the residual stream: itself, times the next norm's factor, its squares."""
    return 4 * D + 2 * D + 4 * (D // TILE)


def _room_bytes(text: TextConfig, splits: int | None, *, delta: bool) -> int:
    """What the launches of a layer pass on: of attention, and of a DeltaNet layer."""
    D, C, H = text.hidden_size, text.conv_channels, text.linear_num_value_heads
    V = text.linear_value_head_dim
    queries = text.num_attention_heads * text.head_dim
    keys = text.num_key_value_heads * text.head_dim
    float32 = text.rotary.dim
    bf16 = (2 * queries + 2 * keys) + queries + text.intermediate_size
    if delta:
        shares = 1 if V <= 2 * TILE else V // TILE  # of a head's output
        float32 += C + 2 * H + H * shares
        bf16 += 2 * H * V
    pieces = 4 * (D // TILE) * (PIECES * TILE * LOGGED + 1)
    token = 2 * _stream_bytes(D) + 4 * float32 + 2 * bf16
    return LOGGED * token + pieces + _attend_bytes(text, splits)


def _attend_bytes(text: TextConfig, splits: int | None) -> int:
    """Of the softmaxes over a part of the keys each, which are then merged by groups."""
    KV, Dh = text.num_key_value_heads, text.head_dim
    rows = 1 << (text.num_attention_heads // KV * LOGGED - 1).bit_length()
    group = 16 if rows <= 8 else 8
    # A card has as many programs as its SMs hold, and a short context needs fewer. An H100 or H200
    # with 132 SMs reaches the most with every Qwen3.5, from 4,096 tokens of context on. A card with
    # fewer takes less: of the 4B at most 9 MiB.
    splits = group * group if splits is None else splits
    groups = -(-splits // group)
    return 4 * KV * ((splits + groups) * rows * (Dh + 2) + groups + 1)


def draw_bytes(text: TextConfig) -> int:
    """Bytes of what the next token is drawn with: `triton/sample.py`, `engine/graph.py`."""
    candidates = 8 * (128 + 1_024 + 64) + 4 * 2
    options, uniforms = 6, 4_096
    return candidates + 4 * (options + uniforms) + text.vocab_size  # which ids were seen


# -- shapes ----------------------------------------------------------------------------------------


def delta_layers(text: TextConfig) -> int:
    return text.layer_types.count("linear_attention")


def attention_layers(text: TextConfig) -> int:
    return text.layer_types.count("full_attention")


def _under(prefix: str, shapes: Iterator[tuple[str, Shape]]) -> dict[str, Shape]:
    return {f"{prefix}.{name}": shape for name, shape in shapes}


def _block(text: TextConfig, kind: LayerType) -> Iterator[tuple[str, Shape]]:
    D, inner = text.hidden_size, text.intermediate_size
    yield "input_layernorm.weight", (D,)
    yield "post_attention_layernorm.weight", (D,)
    yield from _attention(text) if kind == "full_attention" else _delta_net(text)
    yield "mlp.gate_proj.weight", (inner, D)
    yield "mlp.up_proj.weight", (inner, D)
    yield "mlp.down_proj.weight", (D, inner)


def _attention(text: TextConfig) -> Iterator[tuple[str, Shape]]:
    D, Dh = text.hidden_size, text.head_dim
    queries, keys = text.num_attention_heads * Dh, text.num_key_value_heads * Dh
    yield "self_attn.q_proj.weight", (2 * queries, D)
    yield "self_attn.k_proj.weight", (keys, D)
    yield "self_attn.v_proj.weight", (keys, D)
    yield "self_attn.o_proj.weight", (D, queries)
    yield "self_attn.q_norm.weight", (Dh,)
    yield "self_attn.k_norm.weight", (Dh,)


def _delta_net(text: TextConfig) -> Iterator[tuple[str, Shape]]:
    D, H, C = text.hidden_size, text.linear_num_value_heads, text.conv_channels
    values = H * text.linear_value_head_dim
    yield "linear_attn.in_proj_qkv.weight", (C, D)
    yield "linear_attn.in_proj_z.weight", (values, D)
    yield "linear_attn.in_proj_b.weight", (H, D)
    yield "linear_attn.in_proj_a.weight", (H, D)
    yield "linear_attn.conv1d.weight", (C, 1, text.linear_conv_kernel_dim)
    yield "linear_attn.A_log", (H,)
    yield "linear_attn.dt_bias", (H,)
    yield "linear_attn.norm.weight", (text.linear_value_head_dim,)
    yield "linear_attn.out_proj.weight", (D, values)


def _joining(D: int) -> Iterator[tuple[str, Shape]]:
    """What the MTP layer has around its block."""
    yield "fc.weight", (D, 2 * D)
    yield "pre_fc_norm_embedding.weight", (D,)
    yield "pre_fc_norm_hidden.weight", (D,)
    yield "norm.weight", (D,)


def _vision(vision: VisionConfig) -> Iterator[tuple[str, Shape]]:
    D, inner = vision.hidden_size, vision.intermediate_size
    kernel = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    yield "patch_embed.proj.weight", (D, vision.in_channels, *kernel)
    yield "patch_embed.proj.bias", (D,)
    yield "pos_embed.weight", (vision.num_position_embeddings, D)
    for index in range(vision.depth):
        block = f"blocks.{index}"
        yield from _biased(f"{block}.norm1", D)
        yield from _biased(f"{block}.norm2", D)
        yield from _biased(f"{block}.attn.qkv", 3 * D, D)
        yield from _biased(f"{block}.attn.proj", D, D)
        yield from _biased(f"{block}.mlp.linear_fc1", inner, D)
        yield from _biased(f"{block}.mlp.linear_fc2", D, inner)
    joined = D * vision.spatial_merge_size**2
    yield from _biased("merger.norm", D)
    yield from _biased("merger.linear_fc1", joined, joined)
    yield from _biased("merger.linear_fc2", vision.out_hidden_size, joined)


def _biased(name: str, outputs: int, *inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, *inputs)
    yield f"{name}.bias", (outputs,)
