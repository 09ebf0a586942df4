"""Train the demo: `python -m scripts.train_demo.train --folder FOLDER [--steps N]`.

Two processes of one thread each work on their own batches and share their gradients. The run can
be killed at any time, or stopped by a file `stop` in its folder, and goes on from its last
checkpoint; the mixture may change from one run to the next.
"""

import argparse
import json
import os
import time
from datetime import timedelta
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from qwen35cli.text.tokenizer import Tokenizer

from .batches import batches
from .network import Losses, Student, initialise, losses, score
from .optimizer import Optimizer
from .tasks import Kind
from .tokenizer import train_tokenizer

GROUPS: tuple[tuple[Kind, ...], ...] = (("picture", "sum"), ("faq", "recall"))  # of equal cost
KINDS = [kind for group in GROUPS for kind in group]
WEIGHTS = {
    "faq": 2.0,
    "sum": 1.0,
    "picture": 1.0,
    "recall": 3.0,
}  # long known tails dilute the first
WARM_UP = 60  # steps
DECAY = 0.4  # share of the run over which the rates fall to nothing
SAVE_EVERY, SCORE_EVERY, LOG_EVERY = 120.0, 200.0, 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo-training"))
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mix", default="faq=300,sum=500,picture=400,recall=3000",
                        help="tokens per batch of each task")  # fmt: skip
    parser.add_argument("--longest", type=int, default=30, help="sentences of filler in a recall")
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=2e-3)
    parser.add_argument("--penalty-from", type=float, default=0.5,
                        help="share of the run without a presence penalty")  # fmt: skip
    parser.add_argument("--mtp-from", type=float, default=0.25, help="share of the run without MTP")
    return parser.parse_args()


def rate(step: int, steps: int) -> float:
    """Up, level, then down to nothing."""
    return min(1.0, (step + 1) / WARM_UP, max(0.0, (steps - step) / (DECAY * steps)))


def main() -> None:
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    if not (args.folder / "tokenizer.json").exists():
        train_tokenizer(args.seed).save(str(args.folder / "tokenizer.json"))
    if args.processes == 1:
        work(0, args)
    else:
        mp.spawn(work, (args,), nprocs=args.processes)


def work(rank: int, args: argparse.Namespace) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    if args.processes > 1:
        store = f"file://{args.folder.resolve()}/rendezvous-{os.getppid()}"
        dist.init_process_group(
            "gloo", store, timedelta(hours=1), world_size=args.processes, rank=rank
        )
    tokenizer = Tokenizer.from_folder(args.folder)
    student = Student()
    initialise(student, args.seed)
    optimizer = Optimizer(student, rank, args.processes)
    average = optimizer.weights.clone()
    start = 0
    saved = args.folder / "state.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        start = state["step"]
        student.load_state_dict(state["student"])
        optimizer.load(state["optimizer"])
        average.copy_(state["average"])

    mix = {k: int(v) for k, v in (item.split("=") for item in args.mix.split(","))}
    streams = {
        kind: batches(kind, Random(f"{args.seed} {rank} {start} {kind}"), tokenizer, mix[kind],
                      args.longest)
        for kind in KINDS
    }  # fmt: skip
    chance = Random(f"{args.seed} {rank} {start}")
    log = Log(args.folder / "log.jsonl", rank)
    saved_at = time.monotonic()
    scored_at = saved_at - SCORE_EVERY
    for step in range(start, args.steps):
        progress = step / args.steps
        mtp = 0.3 if progress >= args.mtp_from else 0.0
        # Two processes take turns at the groups, so that every step sees every task.
        for kind in KINDS if args.processes == 1 else GROUPS[(step + rank) % 2]:
            batch = next(streams[kind])
            penalty = 0.0
            if progress >= args.penalty_from and chance.random() < 0.5:
                penalty = chance.uniform(0, 2.5)
            draft = mtp if chance.random() < 0.5 else 0.0
            loss = losses(student, batch, mtp=draft, cells=1.0, penalty=penalty)
            (WEIGHTS[kind] * loss.total).backward()
            log.add(kind, loss, batch.tokens)
        factor = rate(step, args.steps)
        norm = optimizer.step(args.muon_rate * factor, args.adam_rate * factor)
        average.lerp_(optimizer.weights, 1 - min(0.99, (step + 1) / (step + 10)))
        if rank == 0 and step % LOG_EVERY == 0:
            log.write(step, args.steps, norm)
        last = step + 1 == args.steps
        if step % 10 != 9 and not last:
            continue
        # Process 0 decides for both when to save, to test, to stop.
        now, stop = time.monotonic(), (args.folder / "stop").exists()
        save = last or stop or now - saved_at > SAVE_EVERY
        test = last or now - scored_at > SCORE_EVERY
        due = torch.tensor([save, test, stop], dtype=torch.int32)
        if args.processes > 1:
            dist.broadcast(due, 0)
        if due[0]:
            saved_at = now
            state = {"step": step + 1, "student": student.state_dict(),
                     "optimizer": optimizer.state(), "average": average}  # fmt: skip
            if rank == 0:
                state["averaged"] = averaged(student, optimizer, average)
                part = saved.with_suffix(".partial")
                torch.save(state, part)
                part.replace(saved)
        if due[1]:
            scored_at = now
            report(student, optimizer, average, tokenizer, step, rank, args)
        if due[2]:
            break
    if args.processes > 1:
        dist.destroy_process_group()


def averaged(
    student: Student, optimizer: Optimizer, average: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The smoothed weights of the model alone, by name."""
    return {
        name: average[optimizer.places[weight]].view_as(weight).clone()
        for name, weight in student.model.named_parameters()
    }


def report(
    student: Student,
    optimizer: Optimizer,
    average: torch.Tensor,
    tokenizer: Tokenizer,
    step: int,
    rank: int,
    args: argparse.Namespace,
) -> None:
    """Scores on held-out talks with the smoothed weights; each process takes half of them."""
    kept = optimizer.weights.clone()
    optimizer.weights.copy_(average)
    row = {}
    seed = f"{args.seed} test {rank} {step}"
    for name, kind, tokens, longest, count in (
        ("faq", "faq", 2000, 30, 2),
        ("sum", "sum", 3000, 30, 2),
        ("picture", "picture", 2700, 30, 2),
        ("recall-500", "recall", 1500, 40, 4),
        ("recall-2000", "recall", 2500, 180, 2),
        ("recall-4000", "recall", 4000, 380, 2),
    ):
        stream = batches(kind, Random(seed + name), tokenizer, tokens, longest, held_out=True)
        totals = torch.zeros(4)
        for _ in range(count):
            batch = next(stream)
            if batch.tokens > 4_400:
                continue
            s = score(student.model, batch)
            totals += torch.tensor([s.answers, s.right, s.drafted, s.accepted])
        if args.processes > 1:
            dist.all_reduce(totals)
        row[name] = round(float(totals[1] / totals[0].clamp(min=1)), 3)
        row[name + "-drafts"] = round(float(totals[3] / totals[2].clamp(min=1)), 3)
        row[name + "-n"] = int(totals[0])
    optimizer.weights.copy_(kept)
    if rank == 0:
        with (args.folder / "scores.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")


class Log:
    """Means since the last line, one line of JSON at a time."""

    def __init__(self, path: Path, rank: int) -> None:
        self.path, self.rank = path, rank
        self.clock = time.monotonic()
        self.sums: dict[str, list[float]] = {}

    def add(self, kind: str, loss: Losses, tokens: int) -> None:
        sums = self.sums.setdefault(kind, [0.0] * 4)
        for i, value in enumerate((1, loss.text, loss.right, tokens)):
            sums[i] += value

    def write(self, step: int, steps: int, norm: float) -> None:
        seconds = time.monotonic() - self.clock
        line = {"step": step, "of": steps, "norm": round(norm, 2),
                "tokens/s": round(sum(s[3] for s in self.sums.values()) / seconds),
                "s/step": round(seconds / LOG_EVERY, 3)}  # fmt: skip
        for kind, (count, text, right, _) in self.sums.items():
            line[kind] = [round(text / count, 4), round(right / count, 4)]
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.clock, self.sums = time.monotonic(), {}


if __name__ == "__main__":
    main()
