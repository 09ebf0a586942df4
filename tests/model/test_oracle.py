"""Our model against `transformers` on tiny random weights: the oracle that is not us."""

import pytest
import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.model.rotary import prompt_positions
from tests.tiny import checkpoint_state, tiny_config, tiny_model

TOLERANCE = 2e-4  # float32 summation order, amplified by random weights

CONFIGS = {
    "tied, r = 2": tiny_config(),
    "untied, r = 1": tiny_config(tied=False, value_heads=2),
    "r = 3, four layers, wide MLP": tiny_config(value_heads=6, layers=4, intermediate_size=200),
    "one kv head": tiny_config(num_key_value_heads=1, linear_key_head_dim=24),
}


def oracle(raw: dict, model: Qwen35) -> Qwen3_5ForConditionalGeneration:
    """The same weights in transformers, float32, eager."""
    theirs = Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(**{k: v for k, v in raw.items() if k != "architectures"})
    ).to(torch.float32)
    theirs.eval()
    state = {k: v for k, v in checkpoint_state(model).items() if not k.startswith("mtp.")}
    if model.lm_head is None:
        state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    theirs.load_state_dict(state, strict=True)
    theirs.requires_grad_(False)
    return theirs


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def pair(request) -> tuple[Qwen35, Qwen3_5ForConditionalGeneration]:
    model = tiny_model(request.param)
    return model, oracle(request.param, model)


def ours(model: Qwen35, ids: torch.Tensor, positions: torch.Tensor | None = None, cache=None):
    past = cache.length if cache is not None else 0
    if positions is None:
        positions = torch.arange(past, past + ids.shape[1]).expand(3, *ids.shape)
    return model.logits(model.language_model(model.embed(ids), positions, cache))


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 150])
def test_text_logits_equal_transformers(pair, length):
    model, theirs = pair
    ids = torch.randint(0, 500, (2, length), generator=torch.Generator().manual_seed(length))
    expected = theirs(input_ids=ids).logits
    torch.testing.assert_close(ours(model, ids), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("cuts", [[1, 2, 3, 67], [64, 65], [70, 71, 72, 73, 74], [99]])
def test_prefill_in_awkward_chunks_then_decode_equals_transformers(pair, cuts):
    model, theirs = pair
    ids = torch.randint(0, 500, (1, 110), generator=torch.Generator().manual_seed(9))
    expected = theirs(input_ids=ids).logits
    cache = model.make_cache(128, torch.float32)
    pieces, start = [], 0
    for stop in [*cuts, 100, *range(101, 111)]:
        pieces.append(ours(model, ids[:, start:stop], cache=cache))
        start = stop
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert cache.length == 110


def test_arbitrary_three_axis_positions_equal_transformers(pair):
    model, theirs = pair
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 500, (1, 40), generator=generator)
    positions = torch.randint(0, 3000, (3, 1, 40), generator=generator)
    expected = theirs(input_ids=ids, position_ids=positions).logits
    torch.testing.assert_close(
        ours(model, ids, positions), expected, rtol=TOLERANCE, atol=TOLERANCE
    )


def picture_prompt(raw: dict) -> tuple[torch.Tensor, list[tuple[int, int, int]]]:
    """Two pictures between text, as the template writes them."""
    image, start, end = (
        raw[k] for k in ("image_token_id", "vision_start_token_id", "vision_end_token_id")
    )
    grids = [(1, 4, 6), (1, 10, 4)]
    ids = [7, 8, start, *[image] * 6, end, 9, 10, start, *[image] * 10, end, 11, 12]
    return torch.tensor([ids]), grids


def with_pictures(model: Qwen35, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    embeds = model.embed(ids)
    embeds[ids == model.config.image_token_id] = rows
    return embeds


def test_vision_tower_equals_transformers(pair):
    model, theirs = pair
    grids = [(1, 4, 6), (1, 10, 4), (3, 2, 2), (1, 14, 20)]
    count = sum(t * h * w for t, h, w in grids)
    pixels = torch.randn(count, 1536, generator=torch.Generator().manual_seed(1))
    expected = theirs.model.visual(pixels, grid_thw=torch.tensor(grids)).pooler_output
    torch.testing.assert_close(
        model.visual(pixels, grids), expected, rtol=TOLERANCE, atol=TOLERANCE
    )


def test_pictures_and_decode_after_them_equal_transformers(pair):
    model, theirs = pair
    raw = {
        k: getattr(model.config, k)
        for k in ("image_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    ids, grids = picture_prompt(raw)
    tail = torch.tensor([[20, 21, 22]])
    pixels = torch.randn(24 + 40, 1536, generator=torch.Generator().manual_seed(1))
    whole = torch.cat([ids, tail], dim=1)
    expected = theirs(
        input_ids=whole,
        pixel_values=pixels,
        image_grid_thw=torch.tensor(grids),
        mm_token_type_ids=(whole == raw["image_token_id"]).int(),
    ).logits

    positions, delta = prompt_positions(ids[0].tolist(), raw["image_token_id"], grids, merge=2)
    cache = model.make_cache(64, torch.float32)
    embeds = with_pictures(model, ids, model.visual(pixels, grids))
    pieces = []
    for start, stop in [(0, 5), (5, 17), (17, ids.shape[1])]:  # cuts inside both pictures
        hidden = model.language_model(embeds[:, start:stop], positions[..., start:stop], cache)
        pieces.append(model.logits(hidden))
    for token in tail[0]:
        position = torch.full((3, 1, 1), cache.length + delta)
        pieces.append(ours(model, token.view(1, 1), position, cache))
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_positions_and_delta_equal_transformers():
    raw = tiny_config()
    theirs = oracle(raw, tiny_model(raw)).model
    generator = torch.Generator().manual_seed(5)
    image = raw["image_token_id"]
    for _ in range(300):
        ids, grids = [], []
        for _ in range(int(torch.randint(1, 5, (), generator=generator))):
            ids += [1] * int(torch.randint(1, 9, (), generator=generator))
            if torch.rand((), generator=generator) < 0.7:
                h, w = (2 * int(torch.randint(1, 9, (), generator=generator)) for _ in range(2))
                grids.append((1, h, w))
                ids += [image] * (h * w // 4)
                ids += [2]
        tokens = torch.tensor([ids])
        expected, delta = theirs.get_rope_index(
            tokens,
            mm_token_type_ids=(tokens == image).int(),
            image_grid_thw=torch.tensor(grids) if grids else None,
        )
        actual, ours_delta = prompt_positions(ids, image, grids, merge=2)
        assert torch.equal(actual, expected)
        assert ours_delta == int(delta)


def test_mtp_equals_a_decoder_layer_of_transformers_between_its_norms():
    raw = tiny_config()
    model = tiny_model(raw)
    from transformers.models.qwen3_5 import modeling_qwen3_5 as theirs

    config = Qwen3_5Config(**{k: v for k, v in raw.items() if k != "architectures"}).text_config
    config._attn_implementation = "eager"
    layer = theirs.Qwen3_5DecoderLayer(config, 3)
    weights = {k: v for k, v in model.state_dict().items() if k.startswith("mtp.")}
    layer.load_state_dict(
        {k.removeprefix("mtp.layers.0."): v for k, v in weights.items() if ".layers." in k}
    )
    T, D = 37, config.hidden_size
    embeds, hidden = torch.randn(2, 1, T, D, generator=torch.Generator().manual_seed(2))
    positions = torch.arange(T).expand(3, 1, T)

    def norm(x, name):
        module = theirs.Qwen3_5RMSNorm(D, eps=config.rms_norm_eps)
        module.load_state_dict({"weight": weights[f"mtp.{name}.weight"]})
        return module(x)

    joined = torch.cat(
        [norm(embeds, "pre_fc_norm_embedding"), norm(hidden, "pre_fc_norm_hidden")], dim=-1
    )
    x = joined @ weights["mtp.fc.weight"].T
    mask = torch.full((1, 1, T, T), -torch.inf).triu(1)
    rotary = theirs.Qwen3_5TextRotaryEmbedding(config)
    with torch.no_grad():
        x = layer(x, position_embeddings=rotary(x, positions), attention_mask=mask)
        x = x[0] if isinstance(x, tuple) else x
        expected = norm(x, "norm")
    actual = model.mtp(embeds, hidden, positions)
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)

    cache = model.make_cache(64, torch.float32, drafts=True).mtp
    pieces = [
        model.mtp(embeds[:, a:b], hidden[:, a:b], positions[..., a:b], cache)
        for a, b in [(0, 20), (20, 21), (21, 37)]
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=TOLERANCE, atol=TOLERANCE)
