"""What was read so far, token for token, and the places in it to which one can return.

A delta state cannot be cut back, so that a prompt that differs from the last one anywhere before
its end would be read from the start. Here states are kept at the marks of a prompt, in host memory,
and the next prompt begins at the last of them that it shares. Reading stops at the same places
whether it began at the start or in the middle, so that both give the same numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

from torch import Tensor

from qwen35cli.model.cache import Cache

from .graph import Checks
from .runner import Prefill, Prompt, Runner, State

STRIDE: Final = 8_192  # tokens of a long message between two states
CAP_BYTES: Final = 2 * 2**30  # of states, where there is room


@dataclass(slots=True)
class Place:
    """A state that can be returned to; `kept` ones go last when room is needed."""

    state: State
    kept: bool

    @property
    def length(self) -> int:
        return self.state.length


class Memory:
    """A runner that reads of each prompt only what it has not read yet.

    It is a decoder for the loops of this package; after an answer `follow` has to be told of it.

    Attributes:
        cap_bytes: of host memory for states; the oldest go first.
        reused: tokens of the last prompt that were there already.
        dropped: states had to go to stay within `cap_bytes`.
    """

    def __init__(self, runner: Runner, cap_bytes: int = CAP_BYTES) -> None:
        self.runner = runner
        self.cap_bytes = cap_bytes
        self.reused = 0
        self.dropped = False
        self.log: list[int] = []  # what the caches hold: ids, or of a picture its own key
        self.places: list[Place] = []  # by rising length
        self._whole = True  # what was read ends where reading can go on
        self._prompt: list[int] = []

    # -- a decoder ------------------------------------------------------------------------------

    @property
    def length(self) -> int:
        return self.runner.length

    @property
    def capacity(self) -> int:
        return self.runner.capacity

    @property
    def cache(self) -> Cache:
        return self.runner.cache

    def step(self, token: int) -> Tensor:
        return self.runner.step(token)

    def look_ahead(
        self, token: int, count: int, checks: Checks | None = None
    ) -> tuple[list[int], Tensor]:
        return self.runner.look_ahead(token, count, checks)

    def keep(self, count: int) -> None:
        self.runner.keep(count)

    def prefill(self, prompt: Prompt, *, logits: bool = True) -> Iterator[Prefill]:
        """Read what is new of a whole prompt, from its start.

        Closed between chunks, what was read stays. With `logits` they come with the last token,
        which is read again where it was there; without, nothing may be left to read.

        Raises:
            ContextFullError, ValueError: as `Runner.prefill`; nothing was read.
        """
        keys = self._keys(prompt)
        self.runner.check_room(len(keys))
        self._prompt = keys
        self.reused = start = self._return_to(keys, logits=logits)
        marks = frozenset(prompt.marks)
        try:
            if start in marks and not (self.places and self.places[-1].length == start):
                self._keep(kept=start in prompt.kept)
            for stop in stops(prompt.marks, keys, start):
                part = part_of(prompt, keys, start, stop)
                for progress in self.runner.prefill(part, logits=logits and stop == len(keys)):
                    done = start + progress.done
                    self.log += keys[len(self.log) : done]
                    self._whole = done == stop or not part.images
                    if done == stop and (stop in marks or stop < len(keys)):
                        self._keep(kept=stop in prompt.kept)
                    yield Prefill(done, len(keys), progress.logits, self.reused)
                start = stop
        except GeneratorExit:
            raise
        except BaseException:
            self.distrust()
            raise

    def follow(self, tokens: Sequence[int]) -> None:
        """`tokens` were generated after the last prompt, and all read but perhaps the last."""
        if not self._whole or len(self.log) != len(self._prompt):
            return
        everything = [*self._prompt, *tokens]
        last = len(everything) - 1
        if tokens and self.length > last and self.cache.reaches(last):
            self.cache.rollback(last)  # so that it can be read again, for what comes after it
        self.log = everything[: self.length]

    def resume(self, log: list[int]) -> None:
        """The caches were filled from elsewhere with `log`, up to the last place."""
        assert self.places and len(log) == self.places[-1].length == self.length
        self.log, self._whole = log, True

    def distrust(self) -> None:
        """What was read last may be half done: go on from a state that was kept before it."""
        self.log = self.log[: self.places[-1].length if self.places else 0]
        self._whole = False

    # -- the places -----------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of all states that are kept."""
        return sum(place.state.nbytes for place in self.places)

    def forget(self) -> None:
        """Drop everything that was read, and all states."""
        self.runner.reset()
        self.log, self.places, self._prompt, self._whole = [], [], [], True

    def _keys(self, prompt: Prompt) -> list[int]:
        return keys_of(prompt, self.runner.model.config.image_token_id)

    def _nearest(self, keys: list[int], *, logits: bool) -> tuple[int, Place | None]:
        """Where reading `keys` can begin, and by which state; none for where it stopped last."""
        same = shared_prefix(self.log, keys)
        most = len(keys) - logits
        if self._whole and same == len(self.log) <= most:
            return same, None
        usable = [place for place in self.places if place.length <= min(same, most)]
        return (usable[-1].length, usable[-1]) if usable else (0, None)

    def _return_to(self, keys: list[int], *, logits: bool) -> int:
        length, place = self._nearest(keys, logits=logits)
        if place is not None:
            self.runner.restore(place.state)
        elif length == 0:
            self.runner.reset()
        self.places = [each for each in self.places if each.length <= length]
        self.log = keys[:length]
        self._whole = True
        return length

    def _keep(self, *, kept: bool) -> None:
        """Keep the state as it is now, and drop the oldest where all take too much."""
        self.places.append(Place(self.runner.snapshot(), kept))
        first, *others = [place for place in self.places if place.kept] or self.places[-1:]
        always = {id(place) for place in (first, *others[-2:], self.places[-1])}
        for place in self.places[:-1]:
            if self.nbytes <= self.cap_bytes:
                break
            if id(place) not in always:
                self.places.remove(place)
                self.dropped = True


def keys_of(prompt: Prompt, image_token: int) -> list[int]:
    """What tells the tokens of a prompt apart: ids, and for those of a picture its digest below 0.

    Raises:
        ValueError: fewer pictures than the prompt speaks of.
    """
    keys, at = list(prompt.ids), 0
    for picture in prompt.images:
        at = keys.index(image_token, at)
        key = -1 - int.from_bytes(picture.digest[:7])
        keys[at : at + picture.tokens] = [key] * picture.tokens
        at += picture.tokens
    return keys


def stops(marks: Sequence[int], keys: Sequence[int], start: int) -> list[int]:
    """Where reading from `start` on pauses: at each mark, every `STRIDE` tokens, at the end.

    A stride ends before a picture that it would cut.
    """
    borders = [0, *marks, len(keys)]
    found = set(marks) | {len(keys)}
    for first, last in pairwise(borders):
        for stop in range(first + STRIDE, last, STRIDE):
            while keys[stop] < 0 and keys[stop - 1] == keys[stop]:
                stop -= 1
            found.add(stop)
    return sorted(stop for stop in found if start < stop <= len(keys))


def part_of(prompt: Prompt, keys: Sequence[int], start: int, stop: int) -> Prompt:
    """The tokens from `start` to `stop` with their pictures."""
    if not prompt.images:
        return Prompt(prompt.ids[start:stop])
    before = sum(1 for _ in runs(keys[:start]))
    inside = sum(1 for _ in runs(keys[start:stop]))
    return Prompt(prompt.ids[start:stop], prompt.images[before : before + inside])


def runs(keys: Sequence[int]) -> Iterator[int]:
    """The key of each picture, once for each time it stands there."""
    return (key for key, _ in groupby(keys) if key < 0)


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many items two sequences have in common at their start."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
