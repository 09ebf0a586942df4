"""What is told about a run: the `--json` object, the lines at start, the line after an answer."""

from typing import Any

from qwen35cli import __version__
from qwen35cli.app.conversation import Conversation
from qwen35cli.app.device import peak_bytes
from qwen35cli.app.estimate import size
from qwen35cli.app.keeping import Kept
from qwen35cli.app.load import Loaded, Opened
from qwen35cli.app.question import Question
from qwen35cli.app.states import Found
from qwen35cli.app.turn import Result
from qwen35cli.app.units import cut
from qwen35cli.engine.depth import WARM_UP, Rounds
from qwen35cli.engine.runner import Prompt
from qwen35cli.engine.sampling import Sampling
from qwen35cli.text.sanitize import Sanitizer

from .config import SAMPLING
from .terminal import Sink, Terminal
from .words import counted


def as_json(result: Result, loaded: Loaded, sampling: Sampling) -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    opened = loaded.opened
    return {
        "answer": result.answer,
        "data": None,
        "reasoning": result.reasoning,
        "finish_reason": result.finish_reason,
        "thinking": {"tokens": result.reasoning_tokens, "closed_by": result.closed_by},
        "usage": {
            "prompt": result.prompt_tokens,
            "cached": result.cached_tokens,
            "image": result.image_tokens,
            "reasoning": result.reasoning_tokens,
            "completion": result.answer_tokens,
        },
        "timings": {
            "load_s": _rounded(loaded.load_s),
            "first_token_s": _rounded(result.first_token_s),
            "prefill_tok_s": _rounded(result.prefill_rate),
            "decode_tok_s": _rounded(result.decode_rate),
            "total_s": _rounded(loaded.load_s + result.total_s),
        },
        "mtp": _drafts(result.rounds, opened),
        "model": opened.source.name,
        "revision": opened.source.revision,
        "quant": opened.checkpoint.format,
        "kv_dtype": opened.kv_dtype,
        "device": opened.device.type,
        "kernels": opened.kernels.backend,
        "ctx": opened.ctx,
        "seed": sampling.seed,
        "sampling": {field: getattr(sampling, field) for field in SAMPLING.values()},
    }


def _drafts(rounds: Rounds | None, opened: Opened) -> dict[str, Any] | None:
    """What looking ahead did; None where it was off."""
    if rounds is None:
        return None
    return {
        "mode": str(opened.mtp),
        "rounds": rounds.count,  # of 0, 1, 2 … drafts
        "tokens_per_round": _rounded(rounds.tokens_per_round),
        "acceptance": [_rounded(share) for share in rounds.acceptance],
        "round_cost": [_rounded(rounds.cost(drafts)) for drafts in range(len(rounds.count))],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def stats_line(result: Result, ctx: int, *, drafts: bool = True) -> str:
    """What was read, what was made, how fast, how full the context is; `drafts`: how those did."""
    parts = [f"cached {result.cached_tokens:,} · new {result.new_tokens:,}"]
    if result.reasoning_tokens:
        parts.append(f"thought {result.reasoning_tokens:,}")
    parts.append(f"answer {result.answer_tokens:,}")
    if result.first_token_s is not None:
        parts.append(f"first token {result.first_token_s:.2f} s")
    if (rate := result.decode_rate) is not None:
        parts.append(f"{rate:,.0f} tok/s" if rate >= 10 else f"{rate:.1f} tok/s")
    rounds = result.rounds if drafts else None
    if rounds is not None and (per_round := rounds.tokens_per_round) is not None:
        parts.append(f"{per_round:.2f} tokens a round")
        if _fell_back(rounds):
            parts.append("drafts do not pay")
    parts.append(f"{result.context_tokens:,} of {ctx:,}")
    if result.read_again:
        parts.append(f"read again: {result.read_again}")
    return " · ".join(parts)


def _fell_back(rounds: Rounds) -> bool:
    """Whether most rounds were plain ones, and not just for being the first."""
    return rounds.count[0] > max(2 * WARM_UP, sum(rounds.count) / 2)


def drafts_line(rounds: Rounds) -> str:
    """For `-v`: how often each number of tokens was drafted, what it cost, what was accepted."""
    parts = []
    for drafts, count in enumerate(rounds.count):
        if count:
            cost = rounds.cost(drafts)
            at = f" at {cost:.2f} of a plain one" if cost is not None and drafts else ""
            parts.append(f"{counted(count, 'round')} of {drafts}{at}")
    accepted = [f"{share:.0%}" for share in rounds.acceptance if share is not None]
    line = "drafts: " + ", ".join(parts)
    return f"{line} · accepted by depth {' '.join(accepted)}" if accepted else line


def start_lines(opened: Opened, conversation: Conversation) -> list[str]:
    """What runs, on what, and with how much room."""
    estimate = opened.estimate
    kv = size(opened.ctx * estimate.kv_per_token)
    more = f"; up to {opened.largest_ctx:,} would fit" if opened.largest_ctx > opened.ctx else ""
    return [
        f"qwen35 {__version__} · {opened.source.name} {opened.checkpoint.format} · "
        f"{opened.device.type} · {opened.kernels.backend} kernels ({opened.kernels.description})",
        f"context {opened.ctx:,} ({opened.kv_dtype} KV {kv}{more}) · "
        f"thinking {'on' if conversation.thinking else 'off'} · "
        f"images {'on' if opened.image_limits else 'off'} · mtp {opened.mtp}",
        f"memory {size(estimate.total)} when the context is full, estimated "
        f"({size(estimate.low)} to {size(estimate.high)})",
    ]


def memory_line(loaded: Loaded, result: Result) -> str:
    """For `--stats`: what was taken at most, beside the estimate for so many tokens."""
    opened = loaded.opened
    estimate = opened.estimate.changed(ctx=result.context_tokens)
    if not result.image_tokens:
        estimate = estimate.changed(patches=())
    states = loaded.memory.nbytes
    here = opened.device.type == "cpu"  # the memory that is told of
    line = (
        f"memory {size(peak_bytes(opened.device))} at most, "
        f"{size(estimate.total + (states if here else 0))} estimated "
        f"for {result.context_tokens:,} tokens"
    )
    if not states:
        return line
    return f"{line}{'' if here else ', beside it'} with {size(states)} of states to return to"


def kept_line(kept: Kept) -> str:
    """What was saved on leaving, and how to go on."""
    name = kept.session.name
    how = f"qwen35 chat --session {name}" if name else "qwen35 chat -c"
    if not kept.tokens:
        return f"session {kept.session.label} saved · resume: {how}"
    return f"saved {kept.tokens:,} tokens ({size(kept.nbytes)}) · resume: {how}"


def title(question: Question, most: int = 60) -> str:
    """How a question begins, in one line."""
    shown = (part if isinstance(part, str) else f"[{part.name}]" for part in question.parts)
    return cut(" ".join("".join(shown).split()), most)


def dry_run(
    conversation: Conversation, question: Question, prompt: Prompt, found: Found | None
) -> dict[str, Any]:
    """The object of `--dry-run`: the `prompt` as the model gets it, and its tokens. Keys are only
    ever added."""
    opened, ids = conversation.opened, prompt.ids
    parts = conversation.parts_of(question)
    return {
        "prompt": b"".join(map(opened.tokenizer.token_bytes, ids)).decode("utf-8", "replace"),
        "parts": [{"name": part.name, "tokens": part.tokens} for part in parts],
        "tokens": len(ids),
        "cached": found.tokens if found is not None else 0,
        "ctx": opened.ctx,
        "left": opened.ctx - len(ids),
    }


def show_dry_run(plan: dict[str, Any], sink: Sink, terminal: Terminal) -> None:
    """The same for people: the prompt where the answer would go, the tokens on stderr."""
    sink.write(Sanitizer().feed(plan["prompt"]) + "\n")
    for part in plan["parts"]:
        terminal.say(f"{part['tokens']:>9,}  {part['name']}")
    total, saved = plan["tokens"], plan["cached"]
    terminal.say(f"{total:>9,}  in all, of {plan['ctx']:,}: {plan['left']:,} left to answer")
    terminal.say(f"{saved:>9,}  read before and saved; {total - saved:,} would be read")


def explain_end(
    result: Result, conversation: Conversation, terminal: Terminal, *, chat: bool = False
) -> None:
    """Name every ending but the plain one, with what to do about it, there or in a `chat`."""
    opened = conversation.opened
    inside = result.closed_by == "none"
    if conversation.turns and conversation.turns[-1].no_room:
        terminal.warn(
            f"the context of {opened.ctx:,} tokens left no room to think",
            "/undo or /clear makes room"
            if chat
            else "a larger --ctx, or a smaller --answer-reserve",
        )
    match result.finish_reason:
        case "interrupted":
            terminal.say("(interrupted)")
        case "loop":
            terminal.warn(
                "the answer was repeating itself and was stopped; one copy is kept",
                "/set loop_guard off lets it repeat" if chat else "--no-loop-guard lets it repeat",
            )
        case "length":
            more = 2 * result.answer_tokens
            terminal.warn(
                f"the answer was stopped at {counted(result.answer_tokens, 'token')}",
                f"/continue goes on; /set max_tokens {more}" if chat else f"--max-tokens {more}",
            )
        case "context":
            fits = opened.largest_ctx > opened.ctx
            instead = "/undo or /think off" if chat else "--no-think, or a shorter prompt"
            terminal.warn(
                f"the context of {opened.ctx:,} tokens is full"
                + (", inside the thinking: there is no answer" if inside else ""),
                f"--ctx {opened.largest_ctx}" if fits else instead,
            )
        case "stop" if inside:
            terminal.warn(
                "the model ended inside its thinking: there is no answer",
                "/continue goes on to the answer; or /regen" if chat else "--no-think",
            )
