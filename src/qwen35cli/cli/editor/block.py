"""A message between two triple quotes, in which Enter is a new line."""

FENCE = '"""'


def is_open(text: str) -> bool:
    """Whether `text` begins with a fence that no later one at a line's end has closed."""
    if not text.lstrip().startswith(FENCE):
        return False
    first, *lines = text.lstrip().removeprefix(FENCE).split("\n")
    return FENCE not in first and not any(line.rstrip().endswith(FENCE) for line in lines)


def content(text: str) -> str:
    """What stands between the fences of a block; any other text as it is, also one that ends with a
    fence behind the one that closed it.
    """
    block = text.strip()
    if not (block.endswith(FENCE) and is_open(block.removesuffix(FENCE))):
        return text
    return block.removeprefix(FENCE).removesuffix(FENCE).strip("\n")
