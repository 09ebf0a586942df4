"""How the edited text is shown: folded pastes as labels, tabs as blanks, controls made harmless."""

import re
from bisect import bisect_right

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments

from qwen35cli.text.sanitize import REPLACEMENT, sanitize

from .paste import MARK, Pastes

TAB = 8

_SPECIAL = re.compile(r"[^ -~\u00a0-\u1fff\u2100-\ud7ff\uf900-\uffff\U00010000-\U0010ffff]")


class Display(Processor):
    """Changes what is drawn; the text itself stays as it was typed or pasted."""

    def __init__(self, pastes: Pastes) -> None:
        self._pastes = pastes

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        given = transformation_input.fragments
        if not _SPECIAL.search(fragment_list_to_text(given)):
            return Transformation(given)
        shown: StyleAndTextTuples = []
        starts = [0]  # of each character, in what is shown
        for style, text, *_ in explode_text_fragments(given):
            if MARK.match(text):
                style, text = f"{style} class:pasted", self._pastes.label(text)
            elif text == "\t":
                text = " " * (TAB - starts[-1] % TAB)
            else:
                text = sanitize(text) or REPLACEMENT  # a CR alone leaves nothing
            shown.append((style, text))
            starts.append(starts[-1] + len(text))

        def source_to_display(position: int) -> int:
            beyond = max(0, position - len(starts) + 1)
            return starts[position - beyond] + beyond

        def display_to_source(position: int) -> int:
            return max(0, bisect_right(starts, position) - 1)

        return Transformation(shown, source_to_display, display_to_source)
