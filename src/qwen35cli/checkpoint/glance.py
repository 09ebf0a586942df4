"""A checkpoint folder at a glance: its config, its format, and why it would not run.

Free of torch, and of trust: what is wrong is said, not raised.
"""

from dataclasses import dataclass
from pathlib import Path

from qwen35cli.errors import ModelError
from qwen35cli.model.config import ARCHITECTURE, Config
from qwen35cli.quant.plan import described

from .folder import read_json
from .names import CONFIG
from .opened import read_tensors


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen of a dense Qwen3.5."""

    config: Config | None  # None: it cannot be used
    format: str  # "" where it is not known
    fault: str = ""  # why it would not run; "" where nothing was seen
    is_certain: bool = True  # False: its config cannot be read, it may be another model


def glance(folder: Path) -> Glance | None:
    """Look at a checkpoint folder; None: its config is that of another model."""
    folder = folder.resolve()
    config, format, is_certain = None, "", False
    try:
        raw = read_json(folder, CONFIG)
        named = raw.get("architectures")
        if not isinstance(named, list) or named[:1] != [ARCHITECTURE]:
            return None
        is_certain = True
        config = Config.from_dict(raw)
        format = described(raw)[0]
        read_tensors(folder)
    except ModelError as error:
        return Glance(config, format, error.message.replace(f"{folder}/", ""), is_certain)
    return Glance(config, format)
