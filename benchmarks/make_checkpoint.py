"""Write a full-size Qwen3.5-4B with random weights: `python -m benchmarks.make_checkpoint FOLDER`.

True names, shapes, dtypes, shard layout, config and vocabulary; the values are noise, so it serves
for speed and memory alone. One tensor is in memory at a time. 9.3 GB, about two minutes.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.real_tokenizer import tokenizer_json
from qwen35cli.checkpoint.names import CONFIG
from qwen35cli.checkpoint.whole_file import write_json
from qwen35cli.checkpoint.write import write_shards

SEED = 35
TENSORS, DATA_BYTES = 738, 9_319_737_856
LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 32, 2560, 9216, 248_320
VISION_BLOCKS, VISION_HIDDEN, VISION_INTERMEDIATE = 24, 1024, 4096
EMBEDDING = "model.language_model.embed_tokens.weight"
# The first file holds the embedding and 86 of the 99 MLP matrices; which 13 it lacks is not known.
MATRICES_IN_FIRST_SHARD = 86

CONFIG_4B: dict[str, Any] = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "image_token_id": 248056,
    "model_type": "qwen3_5",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "dtype": "bfloat16",
        "eos_token_id": 248044,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * (LAYERS // 4),
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "max_position_embeddings": 262144,
        "mlp_only_layers": [],
        "model_type": "qwen3_5_text",
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": 16,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": VOCABULARY,
        "mamba_ssm_dtype": "float32",
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [11, 11, 10],
            "rope_type": "default",
            "rope_theta": 10000000,
            "partial_rotary_factor": 0.25,
        },
    },
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": 248057,
    "vision_config": {
        "deepstack_visual_indexes": [],
        "depth": VISION_BLOCKS,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": VISION_HIDDEN,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": VISION_INTERMEDIATE,
        "model_type": "qwen3_5",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": HIDDEN,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 248054,
    "vision_start_token_id": 248053,
}

PREPROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}

# Stands in for the original: it only shows that this variant thinks unless told otherwise.
TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- else %}
{{- '<think>\\n' }}
{%- endif %}
{%- endif %}
"""


def layout() -> dict[str, Tensor]:
    """Every tensor of the 4B on the meta device: an account of its own, not taken from `src`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(prefix: str, **of: tuple[int, ...]) -> None:
        shapes.update({f"{prefix}.{name.replace('__', '.')}": shape for name, shape in of.items()})

    def add_biased(prefix: str, out: int, *inputs: int) -> None:
        add(prefix, weight=(out, *inputs), bias=(out,))

    def add_mlp_and_norms(prefix: str) -> None:
        add(
            prefix,
            input_layernorm__weight=(HIDDEN,),
            post_attention_layernorm__weight=(HIDDEN,),
            mlp__gate_proj__weight=(INTERMEDIATE, HIDDEN),
            mlp__up_proj__weight=(INTERMEDIATE, HIDDEN),
            mlp__down_proj__weight=(HIDDEN, INTERMEDIATE),
        )

    def add_attention(prefix: str) -> None:
        add(
            f"{prefix}.self_attn",
            q_proj__weight=(8192, HIDDEN),
            k_proj__weight=(1024, HIDDEN),
            v_proj__weight=(1024, HIDDEN),
            o_proj__weight=(HIDDEN, 4096),
            q_norm__weight=(256,),
            k_norm__weight=(256,),
        )

    add("model.language_model", embed_tokens__weight=(VOCABULARY, HIDDEN), norm__weight=(HIDDEN,))
    for i in range(LAYERS):
        layer = f"model.language_model.layers.{i}"
        add_mlp_and_norms(layer)
        if i % 4 == 3:
            add_attention(layer)
            continue
        add(
            f"{layer}.linear_attn",
            in_proj_qkv__weight=(8192, HIDDEN),
            in_proj_z__weight=(4096, HIDDEN),
            in_proj_b__weight=(32, HIDDEN),
            in_proj_a__weight=(32, HIDDEN),
            conv1d__weight=(8192, 1, 4),
            A_log=(32,),
            dt_bias=(32,),
            norm__weight=(128,),
            out_proj__weight=(HIDDEN, 4096),
        )

    add_biased("model.visual.patch_embed.proj", VISION_HIDDEN, 3, 2, 16, 16)
    add("model.visual.pos_embed", weight=(2304, VISION_HIDDEN))
    for i in range(VISION_BLOCKS):
        block = f"model.visual.blocks.{i}"
        add_biased(f"{block}.norm1", VISION_HIDDEN)
        add_biased(f"{block}.norm2", VISION_HIDDEN)
        add_biased(f"{block}.attn.qkv", 3 * VISION_HIDDEN, VISION_HIDDEN)
        add_biased(f"{block}.attn.proj", VISION_HIDDEN, VISION_HIDDEN)
        add_biased(f"{block}.mlp.linear_fc1", VISION_INTERMEDIATE, VISION_HIDDEN)
        add_biased(f"{block}.mlp.linear_fc2", VISION_HIDDEN, VISION_INTERMEDIATE)
    add_biased("model.visual.merger.norm", VISION_HIDDEN)
    add_biased("model.visual.merger.linear_fc1", 4096, 4096)
    add_biased("model.visual.merger.linear_fc2", HIDDEN, 4096)

    add("mtp", fc__weight=(HIDDEN, 2 * HIDDEN), norm__weight=(HIDDEN,))
    add("mtp", pre_fc_norm_embedding__weight=(HIDDEN,), pre_fc_norm_hidden__weight=(HIDDEN,))
    add_mlp_and_norms("mtp.layers.0")
    add_attention("mtp.layers.0")

    def dtype(name: str) -> torch.dtype:
        wide = name.endswith(("linear_attn.A_log", "linear_attn.norm.weight"))
        return torch.float32 if wide else torch.bfloat16

    tensors = {
        name: torch.empty(shape, dtype=dtype(name), device="meta") for name, shape in shapes.items()
    }
    data_bytes = sum(tensor.nbytes for tensor in tensors.values())
    assert (len(tensors), data_bytes) == (TENSORS, DATA_BYTES), (len(tensors), data_bytes)
    return tensors


def split(names: list[str]) -> list[list[str]]:
    """The two files of the original."""
    matrices = [name for name in names if ".mlp." in name and "visual" not in name]
    first = {EMBEDDING, *sorted(matrices)[:MATRICES_IN_FIRST_SHARD]}
    return [[n for n in names if n in first], [n for n in names if n not in first]]


def values(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of a size that keeps activations tame and states from growing."""
    x = torch.empty(like.shape, dtype=like.dtype)
    match name.rpartition("linear_attn.")[2].split("."):
        case ["A_log"]:
            return x.uniform_(1, 16, generator=generator).log_()
        case ["norm", "weight"] if "linear_attn" in name:
            return x.normal_(1, 0.02, generator=generator)
        case ["dt_bias"]:
            return x.uniform_(-4, 1, generator=generator)
    if name.startswith("model.visual") and "norm" in name and name.endswith("weight"):
        return x.normal_(1, 0.02, generator=generator)  # a plain layer norm, not an offset from one
    return x.normal_(0, 0.02, generator=generator)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.make_checkpoint FOLDER")
    folder, start = Path(sys.argv[1]), time.monotonic()
    tensors = layout()
    generator = torch.Generator().manual_seed(SEED)
    write_shards(
        folder,
        split(list(tensors)),
        tensors,
        lambda name: values(name, tensors[name], generator),
    )
    (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "tokenizer_config.json", _tokenizer_config())
    write_json(folder / CONFIG, CONFIG_4B)
    print(f"{DATA_BYTES / 1e9:.2f} GB in {folder}, {time.monotonic() - start:.0f} s")


def _tokenizer_config() -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


if __name__ == "__main__":
    main()
