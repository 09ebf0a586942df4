"""How often the next token is one that a draft can name: by the size of the shortlist.

    python -m benchmarks.shortlist NAME=FILE[,FILE…] … [--out FILE]

Counts the tokens of texts (of a `.po` file: its translations) with the real tokenizer: those among
the first N ids; and those that `Shortlist` has when their turn comes, with the rows that it then
reads. The texts are cut into conversations.
"""

import argparse
import json
import re
from pathlib import Path

import tokenizers

from benchmarks.real_tokenizer import FIRST_ADDED, tokenizer_json
from qwen35cli.model.draft_head import Shortlist
from qwen35cli.model.sizes import COMMON

SIZES = (16_384, 32_768, 49_152, 65_536, 98_304, 131_072)
CONVERSATION = 2_000  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="+", metavar="NAME=FILE[,FILE…]")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json())
    figures = {}
    for text in options.texts:
        name, _, files = text.partition("=")
        whole = "\n".join(read(Path(file)) for file in files.split(","))
        figures[name] = coverage(tokenizer.encode(whole, add_special_tokens=False).ids)
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text)


def read(path: Path) -> str:
    """The text of a file."""
    text = path.read_text(errors="replace")
    if path.suffix != ".po":
        return text
    found = re.findall(r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\n?)+)', text, re.MULTILINE)
    return "\n".join("".join(re.findall(r'"((?:[^"\\]|\\.)*)"', part)) for part in found[1:])


def coverage(ids: list[int]) -> dict[str, float]:
    """For each size: the share of tokens that could be drafted, and without the used ones."""
    figures: dict[str, float] = {"tokens": len(ids)}
    for size in SIZES:
        figures[f"first_{size}"] = round(sum(token < size for token in ids) / len(ids), 4)
    shortlist = Shortlist(COMMON, FIRST_ADDED)
    found = rows = 0
    for at, token in enumerate(ids):
        if at % CONVERSATION == 0:
            shortlist.clear()
        found += token in shortlist
        rows += COMMON + len(shortlist.used) + sum(b - a for a, b in shortlist.blocks)
        shortlist.use([token])
    figures["shortlist"] = round(found / len(ids), 4)
    figures["shortlist_rows"] = round(rows / len(ids))
    return figures


if __name__ == "__main__":
    main()
