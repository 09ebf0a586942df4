"""What files and tensors are called in a checkpoint folder. The one table, free of torch."""

import re

from qwen35cli.model.config import Config
from qwen35cli.model.sizes import Shape, parameters

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD = "model.safetensors-{number:05d}-of-{count:05d}.safetensors"
SHARD_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}\.safetensors")
TENSOR_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
MAX_TENSOR_NAME = 256

# what stands beside the weights and goes with them wherever they go
SIDE_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"),
    *("generation_config.json", "LICENSE*", "NOTICE*"),
)

# (prefix in our model, prefix in the checkpoint): the names are equal but for these
PREFIXES = (
    ("language_model.", "model.language_model."),
    ("visual.", "model.visual."),
)
HEAD = "lm_head.weight"  # where it is not the token embedding
VISION = "model.visual."
# parts that a model may be built without; their tensors then stay in the file
OPTIONAL = (VISION, "mtp.")


def is_tensor_name(name: str) -> bool:
    """Whether a checkpoint may call a tensor so."""
    return len(name) <= MAX_TENSOR_NAME and TENSOR_NAME.fullmatch(name) is not None


def theirs(name: str) -> str:
    """The name in a checkpoint of our parameter `name`."""
    for prefix, stored in PREFIXES:
        if name.startswith(prefix):
            return stored + name.removeprefix(prefix)
    return name


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Of every parameter that a config describes, by its name in a checkpoint."""
    return {theirs(name): shape for name, shape in parameters(config).items()}


def ours(name: str) -> str:
    """Our name of the tensor that a checkpoint calls `name`: the inverse of `theirs`."""
    for prefix, stored in PREFIXES:
        if name.startswith(stored):
            return prefix + name.removeprefix(stored)
    return name
