"""What the quality of a quantized model is measured on: four kinds of text, written for this.

Prose and code are fixed (more of them is taken from this repository where many tokens are wanted),
dialogues and calls of tools go on without end from a seed.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random

import qwen35cli
from qwen35cli.text.template import Message, Text, ToolCall, render
from qwen35cli.text.tokenizer import Tokenizer
from scripts.train_demo.batches import to_sample
from scripts.train_demo.tasks import make_talk

LONGEST = 2_048  # tokens of a document; each starts with an empty cache
LEAST = 16  # tokens that are worth a document
SEED = 3
PICTURE_FREE = ("faq", "sum", "recall")


@dataclass(frozen=True)
class Document:
    """One sequence of tokens, of which those from `first` on are to be predicted."""

    ids: list[int]
    first: int = 1


def buckets(tokenizer: Tokenizer, tokens: int) -> dict[str, list[Document]]:
    """Documents of each kind, `tokens` tokens per kind where there is so much."""
    kinds: dict[str, Callable[[Tokenizer], Iterator[list[int]]]] = {
        "prose": prose,
        "code": code,
        "dialogue": dialogues,
        "tool calls": tool_calls,
    }
    return {kind: taken(texts(tokenizer), tokens) for kind, texts in kinds.items()}


def taken(texts: Iterator[list[int]], tokens: int) -> list[Document]:
    """The first so many tokens, in documents that are not too long."""
    found: list[Document] = []
    for text in texts:
        for start in range(0, len(text), LONGEST):
            part = text[start : start + min(LONGEST, tokens)]
            if len(part) >= LEAST:
                found.append(Document(part))
                tokens -= len(part)
            if tokens < LEAST:
                return found
    return found


def demo_answers(tokenizer: Tokenizer, tokens: int) -> list[Document]:
    """Held-out questions of the demo's own, of whose answers about `tokens` are to be predicted.

    The demo learnt to predict nothing else.
    """
    rng, found = Random(SEED), []
    while tokens > 0:
        for kind in PICTURE_FREE:
            sample = to_sample(make_talk(kind, rng, held_out=True, longest=40), tokenizer)
            if len(sample.ids) <= LONGEST:
                found.append(Document(sample.ids, sample.prompt))
                tokens -= len(sample.ids) - sample.prompt
    return found


def of_file(path: Path, tokenizer: Tokenizer, tokens: int) -> list[Document]:
    """A text of the user's, cut into documents."""
    return taken(iter([tokenizer.encode(path.read_text(encoding="utf-8"))]), tokens)


# -- prose and code ------------------------------------------------------------------------------


def prose(tokenizer: Tokenizer) -> Iterator[list[int]]:
    """What stands below, then what this repository has to read."""
    root = Path(__file__).parents[1]
    files = sorted([*root.glob("*.md"), *root.glob("scripts/*/*.md")])
    return (tokenizer.encode(text) for text in chain(PROSE, (f.read_text() for f in files)))


def code(tokenizer: Tokenizer) -> Iterator[list[int]]:
    """What stands below, then the sources of the program."""
    root = Path(qwen35cli.__file__).parent
    files = sorted(root.rglob("*.py"))
    return (tokenizer.encode(text) for text in chain(CODE, (f.read_text() for f in files)))


PROSE = (
    """\
The ferry left at six in the morning, before the bakery opened, and so the people on it were always
a little hungry and a little cross. Marten, who had taken the tickets for nineteen years, kept a tin
of oat biscuits under the counter for the worst cases: children who had been woken too early, and
once a judge who was on her way to sentence a friend. He never said where the biscuits came from. In
fact his sister baked them on Sundays, three hundred at a time, and refused every payment except a
seat by the window in winter.

That winter the ice came early. By the second week of December the harbour had a skin on it like
cold milk, and by the third the ferry could only leave when the tug went before it. The mayor asked
the county for an icebreaker and received a letter about priorities. He pinned it to the notice
board outside the town hall, where somebody drew a small boat in the margin, going down.

It was the schoolteacher who thought of the road. There had been one, she said, before the bridge
was washed away in her grandmother's time; it ran along the north shore, past the quarry, and if the
ground was frozen hard enough it would carry a cart and perhaps a lorry. Nobody had walked it for
forty years. On Saturday eleven people set out with poles and flags, and on Sunday evening nine of
them came back along the ice, singing, because the other two had stayed to light the stove in the
quarryman's hut and had no intention of leaving it.
""",
    """\
Memory is the slow part of a computer, and has been for a long time. A processor core can multiply
a few dozen numbers in the time that it takes light to cross a desk, but if the numbers are not at
hand it waits, and while it waits it does nothing at all. Designers answer with caches: small, fast
stores near the core that hold what was used recently, on the theory that it will be used again
soon. For most programs the theory is right about nineteen times in twenty.

A language model that writes one word at a time is the exception. To choose the next word it must
read every one of its weights, once, and the weights are far larger than any cache. By the time the
last of them has been read, the first has long been pushed out. The speed of such a model is
therefore simple to predict: divide the number of bytes that memory can deliver in a second by the
number of bytes in the model. Nothing clever in between can raise the quotient; it can only fail to
reach it.

What can be changed is the divisor. If each weight is stored in four bits instead of sixteen, the
model has a quarter of the bytes and could run four times as fast. The price is precision: sixteen
levels are not many, and a weight that falls between two of them has to move. Whether that matters
depends on where the weight stands. In the large matrices of the middle layers the errors of
thousands of weights cancel each other almost completely; in the matrices that write directly to
the stream from which all later layers read, they add up. It is usual, then, to spend eight bits
there and four everywhere else, and to measure what was lost rather than to guess.
""",
    """\
To keep a sourdough alive through a holiday, feed it a stiff dough instead of a batter: fifty grams
of the starter, a hundred of flour and only fifty of water, kneaded until smooth. Wrap it loosely
and leave it for two hours at room temperature, then put it in the coldest corner of the
refrigerator. It will rise slowly for about a week and rest for two more. When you return, cut away
the dry outside, take a piece the size of a walnut from the middle, and feed it twice, twelve hours
apart, as you normally would. If it smells of apples and vinegar it is well. If it smells of nail
varnish it is hungry, and a third feeding will help. If it has turned pink or orange, throw it away
and ask a neighbour for some of theirs.
""",
)

CODE = (
    '''\
"""A queue of jobs that survives a crash: one line of JSON per event, replayed at the start."""

import json
import os
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Job:
    name: str
    arguments: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    not_before: float = 0.0


class Journal:
    def __init__(self, path: Path, retries: int = 3) -> None:
        self.path = path
        self.retries = retries
        self.pending: OrderedDict[int, Job] = OrderedDict()
        self.next_id = 1
        if path.exists():
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                try:
                    self._apply(json.loads(line))
                except (ValueError, KeyError) as error:
                    raise ValueError(f"{path}:{number}: {error}") from error
        self.file = path.open("a", buffering=1)

    def add(self, job: Job) -> int:
        identity = self.next_id
        self._write({"event": "add", "id": identity, "job": asdict(job)})
        return identity

    def take(self, now: float | None = None) -> tuple[int, Job] | None:
        now = time.time() if now is None else now
        for identity, job in self.pending.items():
            if job.not_before <= now:
                return identity, job
        return None

    def failed(self, identity: int, delay: float = 2.0) -> None:
        job = self.pending[identity]
        if job.attempts + 1 >= self.retries:
            self._write({"event": "drop", "id": identity})
        else:
            later = time.time() + delay * 2**job.attempts
            self._write({"event": "retry", "id": identity, "not_before": later})

    def done(self, identity: int) -> None:
        self._write({"event": "drop", "id": identity})

    def _write(self, event: dict) -> None:
        self.file.write(json.dumps(event) + "\\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self._apply(event)

    def _apply(self, event: dict) -> None:
        match event["event"]:
            case "add":
                self.pending[event["id"]] = Job(**event["job"])
                self.next_id = max(self.next_id, event["id"] + 1)
            case "retry":
                job = self.pending[event["id"]]
                job.attempts += 1
                job.not_before = event["not_before"]
                self.pending.move_to_end(event["id"])
            case "drop":
                del self.pending[event["id"]]
            case other:
                raise KeyError(f"unknown event {other!r}")
''',
    """\
// Sums of a column over a sliding window, in one pass and without a second buffer.
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

template <typename T>
std::vector<T> window_sums(const std::vector<T>& column, std::size_t width) {
    if (width == 0) throw std::invalid_argument("a window needs at least one row");
    std::vector<T> sums;
    if (column.size() < width) return sums;
    sums.reserve(column.size() - width + 1);
    T sum{};
    for (std::size_t i = 0; i < column.size(); ++i) {
        sum += column[i];
        if (i >= width) sum -= column[i - width];
        if (i + 1 >= width) sums.push_back(sum);
    }
    return sums;
}

int main() {
    const std::vector<std::int64_t> rows{3, 1, 4, 1, 5, 9, 2, 6};
    std::int64_t largest = 0;
    for (const auto sum : window_sums(rows, 3)) {
        if (sum > largest) largest = sum;
    }
    return largest == 17 ? 0 : 1;
}
""",
    """\
#!/bin/sh
# Keep the newest seven backups of each database, and say what goes.
set -eu
folder=${1:?usage: prune FOLDER}
for name in $(ls "$folder" | sed -n 's/-[0-9]\\{8\\}\\.sql\\.gz$//p' | sort -u); do
    ls -r "$folder/$name"-*.sql.gz | tail -n +8 | while read -r old; do
        printf 'removing %s (%s bytes)\\n' "$old" "$(wc -c < "$old")"
        rm -- "$old"
    done
done
""",
    """\
-- Customers who bought in two months running, and by how much the second was better.
WITH monthly AS (
    SELECT customer_id, date_trunc('month', paid_at) AS month, sum(amount_cents) AS cents
    FROM payments
    WHERE status = 'settled' AND paid_at >= now() - interval '1 year'
    GROUP BY customer_id, month
)
SELECT c.name, later.month, later.cents - earlier.cents AS gained
FROM monthly AS earlier
JOIN monthly AS later
  ON later.customer_id = earlier.customer_id AND later.month = earlier.month + interval '1 month'
JOIN customers AS c ON c.id = later.customer_id
ORDER BY gained DESC NULLS LAST
LIMIT 20;
""",
)


# -- dialogues -----------------------------------------------------------------------------------


def dialogues(tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Answers that were thought about, then the demo's own kinds of talk, without pictures."""
    for question, thought, answer in THOUGHT_ABOUT:
        messages = [
            Message("user", (Text(question),)),
            Message("assistant", (Text(answer),), reasoning=thought),
        ]
        yield render(messages, tokenizer, thinking=True, add_generation_prompt=False)
    rng = Random(SEED)
    while True:
        for kind in PICTURE_FREE:
            yield to_sample(make_talk(kind, rng, held_out=True, longest=40), tokenizer).ids


THOUGHT_ABOUT = (
    (
        "A train leaves at 14:20 and arrives at 17:05. It stood still for a quarter of an hour on "
        "the way. How long was it moving?",
        "From 14:20 to 17:05. From 14:20 to 17:20 would be three hours, and 17:05 is 15 minutes "
        "less, so 2 hours 45 minutes in all. It stood still for 15 minutes. That leaves 2 hours "
        "30 minutes. Check: 14:20 + 2:30 = 16:50, + 0:15 = 17:05. Yes.",
        "It was moving for **2 hours and 30 minutes**: the trip took 2 h 45 min from departure to "
        "arrival, less the 15 minutes it stood still.",
    ),
    (
        "Write a function that says whether a word is a palindrome, ignoring case and anything "
        "that is not a letter.",
        "The user wants Python, presumably. Keep only letters, fold the case, compare with the "
        "reverse. casefold is better than lower for ß and the like. Empty string: a palindrome by "
        "convention. I should mention that.",
        "```python\ndef is_palindrome(text: str) -> bool:\n    letters = [c for c in "
        "text.casefold() if c.isalpha()]\n    return letters == letters[::-1]\n```\n\nA text "
        "without letters counts as a palindrome. `casefold` treats `ß` and `SS` alike, which "
        "`lower` does not.",
    ),
    (
        "My tomato plants have yellow leaves at the bottom. Should I worry?",
        "Lower leaves yellowing: commonly nitrogen shortage, or early blight if there are brown "
        "rings, or too much water, or simply age and shade. I cannot see the plant, so give the "
        "ways to tell them apart, briefly, and what to do for each.",
        "Probably not, if it is only the lowest few leaves. To tell:\n\n- **Even yellow, the rest "
        "pale green:** short of nitrogen. Feed it.\n- **Brown spots with rings:** early blight. "
        "Cut those leaves off, water the soil and not the plant.\n- **Yellow and limp, soil wet:** "
        "too much water. Let the top few centimetres dry out first.\n- **Just the shaded ones:** "
        "age. Take them off and forget about it.",
    ),
    (
        "Was ist der Unterschied zwischen Wetter und Klima?",
        "Die Frage ist auf Deutsch, also antworte ich auf Deutsch. Wetter: kurzfristiger Zustand "
        "der Atmosphäre an einem Ort. Klima: Statistik über lange Zeit, üblich sind 30 Jahre. Ein "
        "Beispiel hilft.",
        "Wetter ist der Zustand der Atmosphäre an einem Ort zu einer bestimmten Zeit: heute "
        "regnet es in Kiel. Klima ist die Statistik des Wetters über lange Zeit, üblicherweise "
        "dreißig Jahre: in Kiel regnet es im Juli an durchschnittlich fünfzehn Tagen. Ein kalter "
        "Sommer widerlegt deshalb keine Erwärmung des Klimas.",
    ),
)


# -- calls of tools ------------------------------------------------------------------------------


def tool_calls(tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Definitions, a wish, the calls it leads to, their results, and what is made of them."""
    rng = Random(SEED)
    while True:
        wish, thought, calls, results, answer = rng.choice(ERRANDS)(rng)
        messages = [
            Message("system", (Text("You are an assistant with access to the user's accounts."),)),
            Message("user", (Text(wish),)),
            Message("assistant", (), reasoning=thought, tool_calls=calls),
            *(Message("tool", (Text(json.dumps(result)),)) for result in results),
            Message("assistant", (Text(answer),), reasoning="That answers it."),
        ]
        offered = rng.sample(TOOLS, 1)
        offered += [t for t in TOOLS if t not in offered and t["name"] in {c.name for c in calls}]
        yield render(
            messages,
            tokenizer,
            thinking=True,
            tools=[{"type": "function", "function": tool} for tool in offered],
            add_generation_prompt=False,
        )


def _tool(name: str, does: str, **parameters: str) -> dict[str, object]:
    """A definition; each parameter is given as its JSON type, and all are required."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"name": name, "description": does, "parameters": schema}


TOOLS = (
    _tool("get_weather", "Forecast of a city for some days.", city="string", days="integer"),
    _tool("search_files", "Find files by name.", pattern="string", folder="string"),
    _tool("read_file", "Text of a file.", path="string"),
    _tool("create_event", "Put an event into the calendar.", event="object"),
    _tool("list_events", "Events between two dates.", first="string", last="string"),
    _tool("run_query", "Rows of a table that pass a filter.", table="string", filter="object"),
)
Errand = tuple[str, str, tuple[ToolCall, ...], list[object], str]
_CITIES = ("Lisbon", "Tromsø", "Osaka", "Nairobi", "Quito", "Perth", "Gdańsk")
_PEOPLE = ("Ada", "Bruno", "Chidi", "Dalia", "Edda", "Farid")


def _weather(rng: Random) -> Errand:
    city, days = rng.choice(_CITIES), rng.randint(2, 5)
    forecast = [
        {"day": i + 1, "high_c": rng.randint(-5, 35), "rain_mm": round(rng.random() * 20, 1)}
        for i in range(days)
    ]
    wet = sum(day["rain_mm"] > 5 for day in forecast)
    return (
        f"Do I need an umbrella in {city} during the next {days} days?",
        f"I need the forecast for {city}, {days} days. There is a tool for it.",
        (ToolCall("get_weather", {"city": city, "days": days}),),
        [{"city": city, "forecast": forecast}],
        f"On {wet} of the {days} days it rains more than 5 mm"
        + (", so take one." if wet else ", so you can leave it at home."),
    )


def _event(rng: Random) -> Errand:
    who, day, hour = rng.choice(_PEOPLE), rng.randint(1, 28), rng.randint(8, 17)
    date = f"2027-0{rng.randint(1, 9)}-{day:02}"
    event = {
        "title": f"Review with {who}",
        "start": f"{date}T{hour:02}:00:00",
        "minutes": rng.choice((30, 45, 60)),
        "guests": [f"{who.lower()}@example.org"],
        "remind": rng.random() < 0.5,
    }
    return (
        f"Am I free on {date} at {hour}? If so, book a review with {who}.",
        f"First what is on {date}, and book it in the same go: the calendar refuses clashes.",
        (
            ToolCall("list_events", {"first": date, "last": date}),
            ToolCall("create_event", {"event": event}),
        ),
        [{"events": []}, {"created": True, "id": rng.randint(1000, 9999), "event": event}],
        f"You were free. The review with {who} is booked for {date} at {hour}:00.",
    )


def _query(rng: Random) -> Errand:
    limit, state = rng.randint(2, 90) * 50, rng.choice(("open", "overdue", "disputed"))
    rows = [
        {
            "invoice": f"R-{rng.randint(10_000, 99_999)}",
            "customer": rng.choice(_PEOPLE),
            "cents": limit * 100 + rng.randint(1, 90_000),
            "state": state,
        }
        for _ in range(rng.randint(1, 4))
    ]
    wanted = {
        "all": [{"field": "state", "equals": state}, {"field": "cents", "above": limit * 100}]
    }
    total = sum(int(str(row["cents"])) for row in rows)
    return (
        f"Which {state} invoices are above {limit} euros, and what do they come to?",
        f"The table is invoices. Filter: state is {state}, cents above {limit * 100}.",
        (ToolCall("run_query", {"table": "invoices", "filter": wanted}),),
        [{"rows": rows, "truncated": False}],
        f"{len(rows)} of them, {total / 100:.2f} euros in all: "
        + ", ".join(str(row["invoice"]) for row in rows)
        + ".",
    )


def _files(rng: Random) -> Errand:
    name, version = rng.choice(("budget", "notes", "roster")), rng.randint(2, 9)
    path = f"/home/{rng.choice(_PEOPLE).lower()}/work/{name}-v{version}.txt"
    lines = [f"{rng.choice(_PEOPLE)}: {rng.randint(1, 400)}" for _ in range(rng.randint(2, 5))]
    return (
        f"Read me the newest {name} file.",
        f"The newest should be {path}, as the list said before. I read it.",
        (ToolCall("read_file", {"path": path}),),
        [{"path": path, "size": rng.randint(100, 9_999), "text": "\n".join(lines)}],
        f"`{path}` says:\n\n" + "\n".join(f"- {line}" for line in lines),
    )


ERRANDS = (_weather, _event, _query, _files)
