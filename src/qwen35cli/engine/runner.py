"""A model with its memory: reads prompts in chunks, then goes token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.errors import ContextFullError
from qwen35cli.images.preprocess import Patches
from qwen35cli.kernels.operands import NoSteps
from qwen35cli.model.cache import Saved
from qwen35cli.model.draft_head import DraftHead
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.model.rotary import prompt_positions

from .drafter import Drafter, SavedDrafter
from .graph import Ahead, Checks, Stepper
from .sampling import Sampler

PREFILL_CHUNK = 512  # tokens read at once: bounds the activations, whatever the prompt
PICTURE_BYTES = 64 * 2**20  # of rows of pictures that were seen, kept for when they come again


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids with each image token repeated once per row of its picture, and the pictures in order.

    Attributes:
        marks: numbers of tokens, rising, after which the state is worth keeping.
        kept: those among them that are kept before all others.
    """

    ids: tuple[int, ...]
    images: tuple[Patches, ...] = ()
    marks: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prefill:
    """A chunk of the prompt was read; `logits` (V,) float32 come with the last one only.

    `start` tokens of the `done` were there before.
    """

    done: int
    total: int
    logits: Tensor | None = None
    start: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """A place in what was read, to which `Runner.restore` returns."""

    cache: Saved
    drafter: SavedDrafter

    @property
    def length(self) -> int:
        return self.cache.length

    @property
    def nbytes(self) -> int:
        """Bytes of host memory; keys and values stay where they are."""
        return self.cache.nbytes()


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A step that may be taken back."""

    start: int  # tokens before it
    ids: list[int]
    inputs: tuple[Tensor | None, Tensor, Tensor] | None  # what `Drafter.read` takes of them


class Runner:
    """One sequence. Its memory is allocated when made, so that nothing grows while it talks.

    Closing `prefill` between chunks is safe: `length` says what was read. With a `draft_head` it
    can look ahead by the model's own drafts.
    """

    def __init__(
        self,
        model: Qwen35,
        *,
        capacity: int,
        kv_dtype: torch.dtype = torch.bfloat16,
        chunk: int = PREFILL_CHUNK,
        draft_head: DraftHead | None = None,
    ) -> None:
        self.model = model
        self.capacity = capacity
        self.chunk = chunk
        self.cache = model.make_cache(
            capacity,
            kv_dtype,
            drafts=draft_head is not None,
            undo=model.kernels.draws is not None,
        )
        step = model.token_step(self.cache)
        self.stepper = None if isinstance(step, NoSteps) else Stepper(model, self.cache, step)
        # Why it decodes op by op, where its kernels could do otherwise.
        self.op_by_op = step.reason if isinstance(step, NoSteps) else None
        self.drafter: Drafter | None = None
        if draft_head is not None:
            assert self.cache.mtp is not None
            self.drafter = Drafter(model, self.cache.mtp, draft_head)
        self._ahead: _Ahead | None = None
        self._pictures: dict[bytes, Tensor] = {}  # rows by digest, the one seen last at the end

    @property
    def length(self) -> int:
        """Tokens in the caches."""
        return self.cache.length

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget everything."""
        self.cache.reset()
        self._ahead = None
        if self.drafter is not None:
            self.drafter.reset()

    @torch.inference_mode()
    def snapshot(self) -> State:
        """The state after the last token, copied to host memory; keys and values stay in place."""
        drafter = None if self.drafter is None else self.drafter.snapshot()
        return State(self.cache.snapshot(), drafter)

    @torch.inference_mode()
    def restore(self, state: State) -> None:
        """Return to `state`.

        Raises:
            ValueError: keys from before it were overwritten since.
        """
        self.cache.restore(state.cache)
        self._ahead = None
        if self.drafter is not None:
            self.drafter.restore(state.drafter)

    @torch.inference_mode()
    def prefill(self, prompt: Prompt, *, logits: bool = True) -> Iterator[Prefill]:
        """Read a prompt behind what is there, a chunk at a time; logits of the last token alone.

        Closed before its end, it must not have read into a picture for the rest to follow.

        Args:
            prompt: what comes next, in which each picture is whole; its marks do not matter here.
            logits: whether those of the last token are wanted.

        Raises:
            ContextFullError: it does not fit; nothing was read.
            ValueError: an empty prompt, or pictures that do not match the image tokens.
        """
        total = len(prompt.ids)
        if not total:
            raise ValueError("an empty prompt")
        self.check_room(self.length + total)
        device, cache = self.model.device, self.cache
        merge = self.model.config.vision.spatial_merge_size if self.model.config.vision else 1
        positions, delta = prompt_positions(
            prompt.ids,
            self.model.config.image_token_id,
            [picture.grid for picture in prompt.images],
            merge,
        )
        positions = positions + cache.length + cache.position_delta
        rows = self._picture_rows(prompt.images)
        ids = torch.tensor(prompt.ids, device=device)[None]
        is_picture = ids[0] == self.model.config.image_token_id
        used = 0
        for start in range(0, total, self.chunk):
            stop = min(start + self.chunk, total)
            x = self.model.embed(ids[:, start:stop])
            if rows is not None:
                pads = is_picture[start:stop]
                count = int(pads.sum())
                x[0, pads] = rows[used : used + count]
                used += count
            here = positions[..., start:stop]
            hidden = self.model.language_model(x, here.to(device), cache, undo=False)
            if self.drafter is not None:
                self.drafter.read(prompt.ids[start:stop], x, hidden, here)
            last = None
            if stop == total:
                cache.position_delta += delta
                last = self.model.logits(hidden[0, -1]) if logits else None
            yield Prefill(stop, total, last)

    def check_room(self, tokens: int) -> None:
        """Refuse more tokens than the context holds.

        Raises:
            ContextFullError: there are more.
        """
        if tokens > self.capacity:
            raise ContextFullError(
                f"the prompt has {tokens:,} tokens, the context {self.capacity:,}: "
                f"{tokens - self.capacity:,} too many, before any room to answer; nothing was cut",
                f"--ctx {tokens + 1024} makes room",
            )

    def _picture_rows(self, images: Sequence[Patches]) -> Tensor | None:
        """What the vision tower makes of all pictures, one at a time: (rows, D)."""
        if not images:
            return None
        if self.model.visual is None:
            raise ValueError("pictures for a checkpoint without a vision tower")
        return torch.cat([self._rows_of(picture) for picture in images])

    def _rows_of(self, picture: Patches) -> Tensor:
        """What the vision tower makes of a picture, or made of it before: (rows, D)."""
        assert self.model.visual is not None
        rows = self._pictures.pop(picture.digest, None)
        if rows is None:
            pixels = picture.pixels.to(self.model.device, self.model.activation_dtype)
            rows = self.model.visual(pixels, [picture.grid])
        self._pictures[picture.digest] = rows  # now the last to be forgotten
        while sum(each.nbytes for each in self._pictures.values()) > PICTURE_BYTES:
            del self._pictures[next(iter(self._pictures))]
        return rows

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Append one token; returns the logits of the next, (V,) float32."""
        logits = self._read([token])[0]
        self.keep(1)
        return logits

    @torch.inference_mode()
    def look_ahead(
        self, token: int, count: int, checks: Checks | None = None
    ) -> tuple[list[int], Tensor]:
        """Append one token, and behind it `count` drafts of what follows; `keep` has to come next.

        Args:
            checks: what draws behind each of them on the device, too.

        Returns:
            The drafts, and the logits after the token and after each draft, (count + 1, V) float32.
        """
        drafts = self.drafter.draft(token, count) if self.drafter is not None and count else []
        assert len(drafts) == count
        try:
            return drafts, self._read([token, *drafts], checks)
        except BaseException:
            if self.drafter is not None:
                self.drafter.undo()
            raise

    @torch.inference_mode()
    def keep(self, count: int) -> None:
        """Of the tokens that were just appended keep the first `count`; the rest never was."""
        ahead = self._ahead
        assert ahead is not None and 0 <= count <= len(ahead.ids)
        self._ahead = None
        if count < len(ahead.ids):
            self.cache.rollback(ahead.start + count)
        if self.drafter is None:
            return
        if count:
            assert ahead.inputs is not None
            x, hidden, positions = ahead.inputs
            x = None if x is None else x[:, :count]
            self.drafter.read(ahead.ids[:count], x, hidden[:, :count], positions[..., :count])
        else:
            self.drafter.undo()

    def ahead(self, sampler: Sampler) -> Ahead | None:
        """Steps that draw on the device, as `sampler` would; None where there are none."""
        return None if self.stepper is None else self.stepper.ahead(sampler)

    def checks(self, sampler: Sampler) -> Checks | None:
        """What draws on the device behind drafts, as `sampler` would; None where nothing does."""
        return None if self.stepper is None else self.stepper.checks(sampler)

    def _read(self, ids: list[int], checks: Checks | None = None) -> Tensor:
        """Append tokens; their logits, (T, V) float32."""
        device, start = self.model.device, self.length
        inputs: tuple[Tensor | None, Tensor, Tensor] | None = None
        positions = self._positions(start, len(ids))
        if self.stepper is not None:
            logits = self.stepper.read(ids) if checks is None else checks.read(ids)
            if self.drafter is not None:
                inputs = None, self.stepper.hidden(len(ids)), positions
        else:
            x = self.model.embed(torch.tensor([ids], device=device))
            hidden = self.model.language_model(x, positions.to(device), self.cache)
            logits, inputs = self.model.logits(hidden[0]), (x, hidden, positions)
        self._ahead = _Ahead(start, ids, inputs)
        return logits

    def _positions(self, start: int, count: int) -> Tensor:
        """Of tokens of text behind the first `start`: (3, 1, count), on the CPU."""
        first = start + self.cache.position_delta
        return torch.arange(first, first + count).expand(3, 1, -1)
