"""Two models over the same texts: how far apart what they predict is.

Teacher-forced: both read the same tokens, and their distributions of each next one are compared
over the whole vocabulary, chunk by chunk, so that memory does not grow with the texts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from benchmarks.texts import Document
from qwen35cli.model.qwen35 import Qwen35

LOGIT_ROWS = 32  # positions whose logits are compared at once: 64 MB each of a large vocabulary
CHUNK = 256  # tokens read at once


@dataclass(frozen=True)
class Scores:
    """Of each position: (P,) each."""

    kld: Tensor  # float64 nats: KL(reference || candidate) of the next token
    agree: Tensor  # bool: the likeliest token is the same
    nll: Tensor  # float64 nats that the true next token costs the candidate
    nll_reference: Tensor


def compare(reference: Tensor, candidate: Tensor, targets: Tensor) -> Scores:
    """Scores of logits (P, V), which are of tokens alone; `targets` (P,) came next."""
    log_p, log_q = (torch.log_softmax(x.double(), dim=-1) for x in (reference, candidate))
    at = targets[:, None]
    return Scores(
        kld=(log_p.exp() * (log_p - log_q)).sum(-1),
        agree=reference.argmax(-1) == candidate.argmax(-1),
        nll=-log_q.gather(1, at)[:, 0],
        nll_reference=-log_p.gather(1, at)[:, 0],
    )


def joined(parts: Sequence[Scores]) -> Scores:
    """The positions of all parts."""
    return Scores(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scores)))


def summary(scores: Scores) -> dict[str, float]:
    """The figures of some positions."""
    own, reference = float(scores.nll.mean()), float(scores.nll_reference.mean())
    return {
        "positions": len(scores.kld),
        "kld": float(scores.kld.mean()),
        "kld_999": float(scores.kld.quantile(0.999)),
        "kld_max": float(scores.kld.max()),
        "top1": float(scores.agree.double().mean()),
        "ppl": math.exp(own),
        "ppl_reference": math.exp(reference),
        "ppl_ratio": math.exp(own - reference),
    }


@dataclass(frozen=True)
class Reader:
    """A model with the type of its keys and values."""

    model: Qwen35
    kv_dtype: torch.dtype = torch.bfloat16


@torch.inference_mode()
def hidden_states(reader: Reader, ids: list[int], chunk: int) -> Iterator[Tensor]:
    """What the head sees of a document, chunk by chunk: (T, D) each."""
    model = reader.model
    cache = model.make_cache(len(ids), reader.kv_dtype)
    tokens = torch.tensor([ids], device=model.device)
    positions = torch.arange(len(ids), device=model.device).expand(3, 1, -1)
    for start in range(0, len(ids), chunk):
        x = model.embed(tokens[:, start : start + chunk])
        yield model.language_model(x, positions[..., start : start + chunk], cache)[0]


@torch.inference_mode()
def measure(
    reference: Reader, candidate: Reader, documents: Sequence[Document], vocab: int, chunk: int
) -> Scores:
    """Scores of every token of the documents that is to be predicted."""
    parts = []
    for document in documents:
        *read, _ = document.ids
        start = 0
        for one, other in zip(
            hidden_states(reference, read, chunk),
            hidden_states(candidate, read, chunk),
            strict=True,
        ):
            for at in range(0, len(one), LOGIT_ROWS):
                place = slice(max(at, document.first - 1 - start), at + LOGIT_ROWS)
                if not len(one[place]):
                    continue
                targets = torch.tensor(document.ids[start + 1 :][place], device=one.device)
                of_reference = reference.model.logits(one[place])[:, :vocab]
                of_candidate = candidate.model.logits(other[place])[:, :vocab]
                parts.append(compare(of_reference, of_candidate, targets[: len(one[place])]))
            start += len(one)
    return joined(parts)


@dataclass(frozen=True)
class Comparison:
    """A reference and texts by kind, to compare models with; `vocab` rows of the head count."""

    reference: Reader
    texts: Mapping[str, Sequence[Document]]
    vocab: int
    chunk: int = CHUNK

    def figures(self, candidate: Reader) -> dict[str, dict[str, float]]:
        """Of every kind of text, and of all together."""
        scores = {
            name: measure(self.reference, candidate, documents, self.vocab, self.chunk)
            for name, documents in self.texts.items()
        }
        pooled = {"all": summary(joined(list(scores.values())))}
        return pooled | {name: summary(of_kind) for name, of_kind in scores.items()}
