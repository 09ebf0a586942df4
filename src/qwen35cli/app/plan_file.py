"""Plan files: what a user wants quantized in another way than the recipe says."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from qwen35cli.errors import UsageError
from qwen35cli.quant.plan import Plan, Scheme

from .toml_file import read_toml

HINT: Final = 'a plan file has the lines  [tensors]  and  "*.mlp.down_proj.weight" = "int8"'


def read_plan(path: Path, base: Plan) -> Plan:
    """The rules of a plan file before those of `base`.

    The file is TOML: a table `[tensors]` with lines `"glob" = "scheme"`, first match first.

    Raises:
        UsageError: it cannot be read, or a line is wrong; the message names it.
    """
    try:
        _, content = read_toml(path, HINT)
    except FileNotFoundError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", HINT) from None
    unknown = content.keys() - {"tensors"}
    tensors = content.get("tensors")
    if unknown or not isinstance(tensors, dict) or not tensors:
        own = f"tensors = {str(tensors)[:40]}" if "tensors" in content else "nothing"
        found = ", ".join(sorted(unknown)) or own
        raise UsageError(f"{path} needs a table [tensors] and no more; it has {found}", HINT)
    rules = []
    for glob, text in tensors.items():
        try:
            rules.append((glob, Scheme.parse(str(text))))
        except ValueError as error:
            raise UsageError(f"{path}: {glob!r}: {error}", HINT) from None
    return replace(base, rules=(*rules, *base.rules), overrides=len(rules) + base.overrides)
