"""A message between two triple quotes, in which Enter is a new line."""

FENCE = '"""'


def is_open(text: str) -> bool:
    """Whether `text` begins with a fence that no later one at a line's end has closed."""
    if not text.lstrip().startswith(FENCE):
        return False
    first, *lines = text.lstrip().removeprefix(FENCE).split("\n")
    return FENCE not in first and not any(line.rstrip().endswith(FENCE) for line in lines)


def content(text: str) -> str:
    """What stands between the fences of a block; any other text as it is."""
    block = text.strip()
    if len(block) < 2 * len(FENCE) or not (block.startswith(FENCE) and block.endswith(FENCE)):
        return text
    return block.removeprefix(FENCE).removesuffix(FENCE).strip("\n")
