"""What a shell may complete behind a flag: models, sessions, presets. Nothing slow is imported."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from qwen35cli.errors import Qwen35Error

Offer = tuple[str, str]  # the word, and what a shell may show beside it
PLAIN: Final = re.compile(r"[\w./@:~+,=%-]+")  # what every shell takes as it stands


def begun(offers: Iterable[Offer], incomplete: str) -> list[Offer]:
    """Those that begin so; names that a shell would have to quote are left to its own completion.

    Typer hands a backslash on to zsh as it is, which would then run what is said behind it.
    """
    return [
        (word, about.replace("\\", ""))
        for word, about in offers
        if word.startswith(incomplete) and PLAIN.fullmatch(word)
    ]


def models(incomplete: str) -> list[Offer]:
    """`demo`, the Hub ids in the cache, and folders with a checkpoint that begin so."""
    from qwen35cli.checkpoint.hub import cache_folder

    offers = [("demo", "in the package")]
    cached: list[Path] = []
    with suppress(Qwen35Error):  # while a line is typed there is no place for an error
        cached = sorted(_matching(cache_folder(), "models--*--*"))
    for folder in cached:
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        if any(_is_ours(each) for each in _matching(folder, "snapshots/*/config.json")):
            offers.append((name, "in the Hugging Face cache"))
    parent, slash, begin = incomplete.rpartition("/")
    around = Path(parent + slash)
    with suppress(RuntimeError):  # ~ of nobody
        around = around.expanduser()
    for config in sorted(_matching(around, "*/config.json")):
        if config.parent.name.startswith(begin) and _is_ours(config):
            offers.append((parent + slash + config.parent.name, "folder"))
    return begun(offers, incomplete)


def sessions(incomplete: str) -> list[Offer]:
    """Names and ids of saved conversations."""
    from .sessions import complete  # late: it imports the options

    return complete(incomplete)


def presets(incomplete: str) -> list[Offer]:
    """The rows of the model card, and the presets of the files."""
    from . import config, config_file, settings
    from .options import PRESETS

    offers = [(name, "of the model card") for name in PRESETS]
    with suppress(Qwen35Error):  # while a line is typed there is no place for an error
        for file in config_file.found(settings.named_config_file()):
            own = file.data.get(config.PRESETS)
            offers += [(name, str(file.path)) for name in own] if isinstance(own, dict) else []
    return begun(dict(offers).items(), incomplete)


def _matching(folder: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return list(folder.glob(pattern))
    return []


def _is_ours(config: Path) -> bool:
    """Whether a config.json is that of a Qwen3.5."""
    with suppress(OSError, ValueError):
        raw = json.loads(config.read_bytes())
        return isinstance(raw, dict) and str(raw.get("model_type", "")).startswith("qwen3_5")
    return False
