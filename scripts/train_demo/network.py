"""The demo's dimensions, its first weights, and what it is trained to minimise."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen35cli.model.config import ARCHITECTURE, Config
from qwen35cli.model.qwen35 import Qwen35

from .batches import Batch
from .kernels import training_kernels
from .pictures import COLOURS, SHAPES
from .tokenizer import BASE_VOCABULARY, SPECIAL

CELL_KINDS = 1 + len(SHAPES) * len(COLOURS)
HIDDEN = 128


def raw_config() -> dict[str, Any]:
    """The demo's config.json."""
    ids = {text: BASE_VOCABULARY + i for i, text in enumerate(SPECIAL)}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3_5",
        "tie_word_embeddings": True,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen3_5_text",
            "dtype": "bfloat16",
            "hidden_size": HIDDEN,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
            "full_attention_interval": 3,
            "hidden_act": "silu",
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_conv_kernel_dim": 4,
            "mamba_ssm_dtype": "float32",
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.02,
            "vocab_size": 2_048,
            "eos_token_id": ids["<|endoftext|>"],
            "max_position_embeddings": 8_192,
            "use_cache": True,
            "tie_word_embeddings": True,
            "mlp_only_layers": [],
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [3, 3, 2],
                "rope_type": "default",
                "rope_theta": 10_000_000,
                "partial_rotary_factor": 0.25,
            },
        },
        "vision_config": {
            "model_type": "qwen3_5",
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 144,
            "out_hidden_size": HIDDEN,
            "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": [],
            "initializer_range": 0.02,
        },
    }


class Student(nn.Module):
    """The model, and a helper head that names what is in each cell of a picture (not exported)."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Qwen35(Config.from_dict(raw_config()), training_kernels(), torch.float32)
        self.cells = nn.Linear(HIDDEN, CELL_KINDS)


def initialise(student: Student, seed: int) -> None:
    """First weights: what writes to the residual stream begins at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in student.named_parameters():
        with torch.no_grad():
            if name.endswith("A_log"):
                weight.uniform_(1, 16, generator=generator).log_()
            elif name.endswith("dt_bias"):
                steps = torch.empty_like(weight).uniform_(
                    math.log(1e-3), math.log(0.1), generator=generator
                )
                weight.copy_(steps.exp().expm1().log())
            elif name.endswith("linear_attn.norm.weight"):
                weight.fill_(1)
            elif ".visual." in name and "norm" in name:
                weight.fill_(1 if name.endswith("weight") else 0)
            elif weight.dim() < 2 or name.endswith(
                ("o_proj.weight", "out_proj.weight", "down_proj.weight", "attn.proj.weight")
            ):
                weight.zero_()
            elif "embed" in name and "patch" not in name:
                weight.normal_(std=0.02, generator=generator)
            else:
                fan_in = weight[0].numel()
                weight.normal_(std=0.7 * fan_in**-0.5, generator=generator)


@dataclass(frozen=True)
class Losses:
    """What one batch costs; `total` is differentiated, the rest is for the log."""

    total: Tensor
    text: float
    right: float  # share of learnt tokens that are the likeliest


def embed(model: Qwen35, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """(B, T, D) embeddings with picture rows in place, and those rows."""
    embeds = model.embed(batch.ids)
    if batch.pixels is None:
        return embeds, None
    assert model.visual is not None
    rows = model.visual(batch.pixels, batch.grids)
    pads = (batch.ids == model.config.image_token_id)[..., None]
    return embeds.masked_scatter(pads, rows), rows


def already_said(batch: Batch, vocabulary: int) -> Tensor:
    """(learnt tokens, V) bool: what the answer holds before each of its tokens."""
    earlier = torch.zeros(len(batch.ids), vocabulary, dtype=torch.bool)
    rows, columns = batch.learnt.nonzero(as_tuple=True)
    marks = torch.empty(len(rows), vocabulary, dtype=torch.bool)
    for at, (row, token) in enumerate(
        zip(rows.tolist(), batch.ids[rows, columns].tolist(), strict=True)
    ):
        marks[at] = earlier[row]
        earlier[row, token] = True
    return marks


def losses(student: Student, batch: Batch, *, mtp: float, cells: float, penalty: float) -> Losses:
    """Cross-entropy of the answer, of the token after it (MTP), and of the cells of pictures.

    `penalty` is taken off the logits of what was said already, as sampling does with a presence
    penalty: the model learns to be sure enough to repeat itself where it must.
    """
    model = student.model
    embeds, rows = embed(model, batch)
    hidden = model.language_model(embeds, batch.positions)
    learnt = batch.learnt[:, 1:]
    targets = batch.ids[:, 1:][learnt]
    logits = model.logits(hidden[:, :-1][learnt])
    right = (logits.argmax(-1) == targets).float().mean()
    if penalty:
        logits = logits - penalty * already_said(batch, logits.shape[-1])
    text = F.cross_entropy(logits, targets)
    total = text
    if rows is not None and cells:
        named = student.cells(rows)
        kinds = batch.cells.flatten()
        weight = torch.ones(CELL_KINDS)
        weight[0] = 0.3
        total = total + cells * F.cross_entropy(named, kinds, weight)
    if mtp:
        assert model.mtp is not None
        drafted = model.mtp(embeds[:, 1:-1], hidden[:, :-2], batch.positions[:, :, :-2])
        later = batch.learnt[:, 2:]
        states, wanted = drafted[later], hidden[:, 1:-1][later].detach()
        guessed = F.cross_entropy(model.logits(states), batch.ids[:, 2:][later])
        # The closer to the model's own next state, the better the layer drafts on from its own.
        apart = F.mse_loss(states, wanted) / wanted.square().mean()
        total = total + mtp * (guessed + apart)
    return Losses(total, text.item(), right.item())


@dataclass(frozen=True)
class Score:
    """Of one batch under greedy decoding: whole answers right, and drafts accepted."""

    answers: int
    right: int
    drafted: int
    accepted: int


@torch.no_grad()
def score(model: Qwen35, batch: Batch) -> Score:
    """Teacher-forced: where every token of an answer is the likeliest, greedy decoding gives it."""
    embeds, _ = embed(model, batch)
    hidden = model.language_model(embeds, batch.positions)
    learnt = batch.learnt[:, 1:]
    likeliest = model.logits(hidden[:, :-1]).argmax(-1)
    wrong = ((likeliest != batch.ids[:, 1:]) & learnt).any(1)
    assert model.mtp is not None
    drafted = model.mtp(embeds[:, 1:-1], hidden[:, :-2], batch.positions[:, :, :-2])
    later = batch.learnt[:, 2:] & batch.learnt[:, 1:-1]
    accepted = model.logits(drafted[later]).argmax(-1) == batch.ids[:, 2:][later]
    return Score(len(wrong), int((~wrong).sum()), len(accepted), int(accepted.sum()))
