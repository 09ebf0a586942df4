"""The chat format, from messages to token ids, built structurally.

A port of the checkpoint's chat template, which is never executed. Its markup is written by
`_Prompt.markup`, where control tokens are ids; everything else goes through `_Prompt.text`, where
`<|im_end|>` or `<think>` is mere text. For the same reason the template's two searches for markup
in contents (a user text wrapped in `<tool_response>`, `</think>` in an answer) have no
counterpart: tool results have their role, and reasoning has its field.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwen35cli.errors import UsageError

from .tokenizer import Tokenizer, check_unicode
from .tools import ToolCall, parse_tool_calls

__all__ = [
    "ImagePart",
    "Message",
    "Part",
    "Text",
    "ToolCall",
    "parse_tool_calls",
    "render",
    "thinks_by_default",
]

_CONTROL = re.compile(r"(<\|\w+\|>|</?(?:think|tool_call|tool_response)>)")

_TOOLS_BEFORE = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_TOOLS_AFTER = """
</tools>

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must \
be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the \
function call, but NOT after
- If there is no function call available, answer the question like normal with your current \
knowledge and do not tell the user about function calls
</IMPORTANT>"""


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture in a message, by the number of tokens it takes."""

    tokens: int


Part = Text | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is system, user, assistant or tool.

    `reasoning` and `tool_calls` count for the assistant only.
    """

    role: str
    content: tuple[Part, ...]
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as ids, and where reading it may stop and later go on.

    Attributes:
        ids: the whole prompt.
        marks: numbers of tokens, rising: the ends of the system block, of each document and
            picture, of each turn, and the place before each answer. What stands before a mark is
            the same ids whatever follows, but for a document whose end merges with what follows.
        system: tokens of the system block.
        messages: tokens before each message.
        turn: tokens before the last answer begins, or the think block before it.
    """

    ids: list[int]
    marks: tuple[int, ...]
    system: int
    messages: tuple[int, ...]
    turn: int


class _Prompt:
    """Collects ids; all text between two control ids is encoded in one call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._pending: list[str] = []
        self._pending_marks: list[int] = []  # in characters of what is pending
        self._marks: list[int] = []

    def text(self, text: str) -> None:
        """Add text in which nothing is a control token."""
        self._pending.append(text)

    def control(self, token: int, count: int = 1) -> None:
        """Add a control id `count` times."""
        self._flush()
        self._ids += [token] * count

    def markup(self, trusted: str) -> None:
        """Add text of our own, in which the names of control tokens are control tokens."""
        for i, run in enumerate(_CONTROL.split(trusted)):
            if i % 2:
                self.control(self._tokenizer.added[run])
            else:
                self.text(run)

    def mark(self) -> None:
        """Remember this place as one to which reading can return."""
        self._pending_marks.append(sum(map(len, self._pending)))

    def parts(self, parts: Sequence[Part]) -> None:
        """Add a message's content, each picture as pads between its borders; a mark after each."""
        special = self._tokenizer.special
        for number, part in enumerate(parts):
            if number:
                self.mark()
            if isinstance(part, Text):
                self.text(part.text)
            else:
                self.control(special.vision_start)
                self.control(special.image_pad, part.tokens)
                self.control(special.vision_end)

    def ids(self) -> list[int]:
        """Everything added so far."""
        self._flush()
        return self._ids

    @property
    def length(self) -> int:
        """Tokens so far, where a control token comes next."""
        return len(self.ids())

    def marks(self) -> list[int]:
        """The marked places as numbers of tokens."""
        self._flush()
        return self._marks

    def _flush(self) -> None:
        before = len(self._ids)
        counts = [0] * len(self._pending_marks)
        if text := "".join(self._pending):
            ids, counts = self._tokenizer.encode_marked(text, self._pending_marks)
            self._ids += ids
        self._marks += [before + count for count in counts]
        self._pending.clear()
        self._pending_marks.clear()


def render(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    thinking: bool,
    tools: Sequence[Mapping[str, object]] = (),
    add_generation_prompt: bool = True,
) -> list[int]:
    """The prompt's ids; each picture takes as many image pads as it has tokens. See `rendered`."""
    return rendered(
        messages,
        tokenizer,
        thinking=thinking,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
    ).ids


def rendered(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    thinking: bool,
    tools: Sequence[Mapping[str, object]] = (),
    add_generation_prompt: bool = True,
    keep_thinking: bool = False,
) -> Rendered:
    """The prompt, with the places in it at which reading can begin again.

    Args:
        messages: the conversation.
        tokenizer: of the checkpoint the prompt is for.
        thinking: whether the answer begins inside a think block or after an empty one.
        tools: JSON schemas of the functions on offer.
        add_generation_prompt: end with the beginning of the assistant's turn.
        keep_thinking: leave in the reasoning of all answers; the template leaves out what stands
            before the last user message.

    Raises:
        UsageError: no message, no user message, a system message that is not the first or holds
            a picture, an unknown role, arguments that are not a mapping, or invalid Unicode.
    """
    if not messages:
        raise UsageError("there are no messages", "ask something")
    last_query = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    if last_query < 0:
        raise UsageError("no user query found in messages", "ask something")

    for part in (part for message in messages for part in message.content):
        if isinstance(part, Text):
            check_unicode(part.text)  # while its characters are counted as they were given
    prompt = _Prompt(tokenizer)
    _add_system(prompt, messages[0], tools)
    system = prompt.length
    prompt.mark()
    borders = []
    for i, message in enumerate(messages):
        borders.append(prompt.length if i else 0)
        content = _trim(message.content)
        match message.role:
            case "system":
                if i:
                    raise UsageError(f"message {i + 1} is a system message; only the first may be")
            case "user":
                prompt.markup("<|im_start|>user\n")
                prompt.parts(content)
                prompt.markup("<|im_end|>\n")
            case "assistant":
                prompt.markup("<|im_start|>assistant\n")
                prompt.mark()
                if i > last_query or (keep_thinking and message.reasoning is not None):
                    prompt.markup("<think>\n")
                    prompt.text((message.reasoning or "").strip())
                    prompt.markup("\n</think>\n\n")
                prompt.parts(content)
                for k, call in enumerate(message.tool_calls):
                    prompt.text("\n" if k else "\n\n" if content else "")
                    _add_call(prompt, call)
                prompt.markup("<|im_end|>\n")
                prompt.mark()
            case "tool":
                if i and messages[i - 1].role != "tool":
                    prompt.markup("<|im_start|>user")
                prompt.markup("\n<tool_response>\n")
                prompt.parts(content)
                prompt.markup("\n</tool_response>")
                if i + 1 == len(messages) or messages[i + 1].role != "tool":
                    prompt.markup("<|im_end|>\n")
            case role:
                raise UsageError(
                    f"message {i + 1} has the unknown role {role!r}",
                    "roles are system, user, assistant and tool",
                )
    if add_generation_prompt:
        prompt.markup("<|im_start|>assistant\n")
    turn = prompt.length
    prompt.mark()
    if add_generation_prompt:
        prompt.markup("<think>\n")
        prompt.markup("" if thinking else "\n</think>\n\n")
    marks = sorted(set(prompt.marks()) - {0})
    return Rendered(prompt.ids(), tuple(marks), system, tuple(borders), turn)


def _add_system(prompt: _Prompt, first: Message, tools: Sequence[Mapping[str, object]]) -> None:
    """The system block: tool definitions, then what the first message says, if it is of system."""
    given = first.role == "system"
    content = _trim(first.content) if given else ()
    if any(isinstance(part, ImagePart) for part in content):
        raise UsageError("a system message cannot contain images", "attach them to a question")
    if not (tools or given):
        return
    prompt.markup("<|im_start|>system\n")
    if tools:
        prompt.markup(_TOOLS_BEFORE)
        for tool in tools:
            prompt.text("\n" + _json(tool))
        prompt.markup(_TOOLS_AFTER)
        prompt.text("\n\n" if content else "")
    prompt.parts(content)
    prompt.markup("<|im_end|>\n")


def _add_call(prompt: _Prompt, call: ToolCall) -> None:
    if not isinstance(call.arguments, Mapping):
        raise UsageError(
            f"the arguments of {call.name} are not an object", "parse their JSON first"
        )
    prompt.markup("<tool_call>\n")
    prompt.text(f"<function={call.name}>\n")
    for name, value in call.arguments.items():
        shown = _json(value) if isinstance(value, Mapping | list | tuple) else str(value)
        prompt.text(f"<parameter={name}>\n{shown}\n</parameter>\n")
    prompt.markup("</function>\n</tool_call>")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _trim(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Strip whitespace at both ends of the content, and drop texts that leaves empty."""
    trimmed = list(parts)
    for end, strip in ((0, str.lstrip), (-1, str.rstrip)):
        while trimmed and isinstance(part := trimmed[end], Text):
            if text := strip(part.text):
                trimmed[end] = Text(text)
                break
            del trimmed[end]
    return tuple(trimmed)


def thinks_by_default(chat_template_text: str) -> bool:
    """Whether a checkpoint thinks unless told otherwise, read off its template's text.

    Templates end with the generation prompt, and that with what an absent `enable_thinking` falls
    back to: 4B, 9B and 27B leave the think block open there, 0.8B and 2B close it.
    """
    generation_prompt = chat_template_text.rpartition("add_generation_prompt")[2]
    fallback = re.split(r"\belse\b", generation_prompt)[-1]
    return "</think>" not in fallback
