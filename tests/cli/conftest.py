"""A tiny random checkpoint whose tokens are bytes, complete enough for `--model FOLDER`."""

import json
import os

import pytest
import tokenizers
from tokenizers import AddedToken, pre_tokenizers
from tokenizers.models import BPE

from tests.fakes import LITERALS
from tests.scripted import NO_SETTINGS
from tests.tiny import tiny_config, write_tiny_checkpoint


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch):
    """Calls in this process read no settings and leave nothing behind, unless a test says where."""
    for name in os.environ:
        if name.startswith("QWEN35_"):
            monkeypatch.delenv(name)
    for name, value in NO_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("QWEN35_NO_SAVE", "1")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in LITERALS])
    tokenizer.save(str(folder / "tokenizer.json"))

    raw = tiny_config(layers=4)
    for name in ("vision_start", "vision_end", "image", "video"):
        literal = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
        raw[f"{name}_token_id"] = 256 + LITERALS.index(literal)
    write_tiny_checkpoint(folder, raw)
    limits = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(limits))
    return str(folder)
