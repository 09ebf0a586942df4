"""How many tokens to draft in a round: by what drafts cost here, and how many were accepted."""

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

MOST: Final = 4  # drafts of a round, at most
PRIOR: Final = 0.7  # acceptance before anything is known, and how many drafts that counts for
PRIOR_DRAFTS: Final = 4.0
PRIOR_LEAST: Final = 2.0  # and counts for in the end
FORGET: Final = 0.93  # what an outcome weighs after the next one
RECENT: Final = 5  # rounds whose median is the cost
WARM_UP: Final = 3  # plain rounds to begin with; the first is cold
PROBE: Final = 32  # rounds between looks at another depth; doubled while plain decoding stays best
GROWTH: Final = 0.3  # cost of another draft, in plain tokens, before one was measured


@dataclass(slots=True)
class Rounds:
    """What the rounds of an answer did. Index d: rounds of d drafts, or drafts at depth d + 1."""

    count: list[int] = field(default_factory=lambda: [0] * (MOST + 1))
    seconds: list[list[float]] = field(default_factory=lambda: [[] for _ in range(MOST + 1)])
    drafted: list[int] = field(default_factory=lambda: [0] * MOST)  # and looked at
    accepted: list[int] = field(default_factory=lambda: [0] * MOST)

    def record(self, drafts: int, looked: int, accepted: int, seconds: float) -> None:
        """A round of `drafts`: `looked` were compared, of which the first `accepted` were right."""
        self.count[drafts] += 1
        self.seconds[drafts].append(seconds)
        for depth in range(looked):
            self.drafted[depth] += 1
            self.accepted[depth] += depth < accepted

    @property
    def tokens_per_round(self) -> float | None:
        """Each round makes one token, and one for each draft that was right."""
        rounds = sum(self.count)
        return 1 + sum(self.accepted) / rounds if rounds else None

    @property
    def acceptance(self) -> list[float | None]:
        """Of each depth: the share of drafts that were right where those before it were."""
        return [
            right / tried if tried else None
            for right, tried in zip(self.accepted, self.drafted, strict=True)
        ]

    def cost(self, drafts: int) -> float | None:
        """Median time of a round of `drafts` over that of a plain one; None: not both were seen."""
        if not self.seconds[drafts] or not self.seconds[0]:
            return None
        return statistics.median(self.seconds[drafts]) / statistics.median(self.seconds[0])


class Depth(Protocol):
    """Decides before each round, and is told what came of it."""

    def choose(self) -> int: ...
    def record(self, drafts: int, looked: int, accepted: int, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always as many."""

    drafts: int

    def choose(self) -> int:
        return self.drafts

    def record(self, drafts: int, looked: int, accepted: int, seconds: float) -> None:
        """Nothing to learn."""


class Adaptive:
    """As many as give the most tokens per second; none where drafts do not pay.

    The acceptance of each depth is an average that forgets, with that of the depth above it as its
    prior; the cost of a round is the median of the last few. A depth that was not tried yet is
    judged by the growth from the ones below it. Now and then a neighbour of the best is tried, so
    that a change is noticed.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._seconds: list[deque[float]] = [deque(maxlen=RECENT) for _ in range(MOST + 1)]
        self._prior = [PRIOR_DRAFTS] * MOST  # how many drafts it still counts for
        self._tried = [0.0] * MOST
        self._right = [0.0] * MOST
        self._since_probe = 0
        self._interval = PROBE
        self._upward = True
        self._cold = True  # nothing was drafted yet

    @property
    def best(self) -> int:
        """The depth that promises the most tokens per second."""
        costs = self._costs()
        tokens, share, reached, promises = 1.0, PRIOR, 1.0, [1.0 / costs[0]]
        for depth in range(self.most):
            right, tried, prior = self._right[depth], self._tried[depth], self._prior[depth]
            share = (right + prior * share) / (tried + prior)
            reached *= share
            tokens += reached
            promises.append(tokens / costs[depth + 1])
        return max(range(self.most + 1), key=promises.__getitem__)

    def choose(self) -> int:
        if len(self._seconds[0]) < WARM_UP:
            return 0
        if self._cold:
            return min(1, self.most)
        best = self.best
        if self._since_probe < self._interval:
            return best
        self._since_probe = 0
        self._interval = min(2 * self._interval, 16 * PROBE) if best == 0 else PROBE
        self._upward = not self._upward
        if best == 0:
            return min(2 if self._upward else 1, self.most)
        return min(best + 1, self.most) if self._upward else best - 1

    def record(self, drafts: int, looked: int, accepted: int, seconds: float) -> None:
        self._since_probe += 1
        if drafts and self._cold:
            self._cold = False  # it read from the disk, and made what the next ones use
        else:
            self._seconds[drafts].append(seconds)
        for depth in range(looked):
            self._prior[depth] = max(PRIOR_LEAST, FORGET * self._prior[depth])
            self._tried[depth] = FORGET * self._tried[depth] + 1
            self._right[depth] = FORGET * self._right[depth] + (depth < accepted)

    def _costs(self) -> list[float]:
        """Seconds of a round of each depth, measured or foreseen."""
        plain = statistics.median(self._seconds[0])
        costs, growth = [plain], GROWTH * plain
        for seconds in list(self._seconds)[1:]:
            cost = statistics.median(seconds) if seconds else costs[-1] + growth
            growth = max(cost - costs[-1], 0.0)
            costs.append(cost)
        return costs
