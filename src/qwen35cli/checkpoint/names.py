"""What things are called in a checkpoint folder: files, tensors, number formats. The one table."""

import re

import torch

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD = "model.safetensors-{number:05d}-of-{count:05d}.safetensors"
SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
TENSOR_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

# (prefix in our model, prefix in the checkpoint): the names are equal but for these
PREFIXES = (
    ("language_model.", "model.language_model."),
    ("visual.", "model.visual."),
)
# parts that a model may be built without; their tensors then stay in the file
OPTIONAL = ("model.visual.", "mtp.")

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
SPELLING = {dtype: name for name, dtype in DTYPES.items()}


def theirs(name: str) -> str:
    """The name in a checkpoint of our parameter `name`."""
    for prefix, stored in PREFIXES:
        if name.startswith(prefix):
            return stored + name.removeprefix(prefix)
    return name
