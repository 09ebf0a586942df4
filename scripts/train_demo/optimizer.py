"""Muon for the matrices inside, Adam for the rest, shared out over the processes."""

from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor, nn

_ADAM = ("embed", "cells", "conv1d", "in_proj_a", "in_proj_b", "merger.linear_fc1")


def orthogonalised(x: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz: matrices (n, rows, columns) with all singular values near one."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-1, -2) if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.transpose(-1, -2) if tall else x


class Optimizer:
    """Averages gradients over the processes and takes a step.

    All weights live in one flat buffer, as do their gradients: one message each way. Each process
    works out the Muon steps of its share of the matrices.
    """

    def __init__(self, module: nn.Module, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        matrices = [(n, p) for n, p in named if p.dim() == 2 and not any(a in n for a in _ADAM)]
        inside = {n for n, _ in matrices}
        others = [(n, p) for n, p in named if n not in inside]
        by_shape: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for _, p in matrices:
            by_shape[tuple(p.shape)].append(p)
        shares: list[list[nn.Parameter]] = [[] for _ in range(world)]
        for group in by_shape.values():
            for i in range(world):
                shares[i] += group[i::world]
        order = [p for share in shares for p in share] + [p for _, p in others]
        self.weights = torch.cat([p.detach().flatten() for p in order])
        self.grads = torch.zeros_like(self.weights)
        self.momentum = torch.zeros_like(self.weights)
        self.second = torch.zeros_like(self.weights)
        self.steps = 0
        self.places: dict[nn.Parameter, slice] = {}
        at = 0
        for p in order:
            self.places[p] = slice(at, at := at + p.numel())
            p.data = self.weights[self.places[p]].view_as(p)
            p.grad = self.grads[self.places[p]].view_as(p)
        sizes = [sum(p.numel() for p in share) for share in shares]
        self.bounds = [0]
        for size in sizes:
            self.bounds.append(self.bounds[-1] + size)
        self.mine: defaultdict[tuple[int, ...], list[slice]] = defaultdict(list)
        for p in shares[rank]:
            self.mine[tuple(p.shape)].append(self.places[p])

    def step(self, muon_rate: float, adam_rate: float) -> float:
        """Returns the length of the gradient."""
        self.steps += 1
        if self.world > 1:
            dist.all_reduce(self.grads)
            self.grads /= self.world
        norm = float(self.grads.norm())
        self.grads *= min(1.0, 1.0 / (norm + 1e-6))
        self._muon(muon_rate)
        self._adam(slice(self.bounds[-1], None), adam_rate)
        if self.world > 1:
            for rank in range(self.world):
                dist.broadcast(self.weights[self.bounds[rank] : self.bounds[rank + 1]], rank)
        self.grads.zero_()
        return norm

    def _muon(self, rate: float, beta: float = 0.95, decay: float = 0.02) -> None:
        for shape, slices in self.mine.items():
            for place in slices:
                self.momentum[place].lerp_(self.grads[place], 1 - beta)
            ahead = torch.stack(
                [self.grads[p].lerp(self.momentum[p], beta).view(shape) for p in slices]
            )
            updates = orthogonalised(ahead) * max(1.0, shape[0] / shape[1]) ** 0.5
            for place, update in zip(slices, updates, strict=True):
                self.weights[place].mul_(1 - rate * decay).sub_(update.flatten(), alpha=rate)

    def _adam(self, place: slice, rate: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        grads = self.grads[place]
        first = self.momentum[place].lerp_(grads, 1 - betas[0])
        second = self.second[place].lerp_(grads.square(), 1 - betas[1])
        first = first / (1 - betas[0] ** self.steps)
        scale = (second / (1 - betas[1] ** self.steps)).sqrt_().add_(1e-8)
        self.weights[place].addcdiv_(first, scale, value=-rate)

    def state(self) -> dict[str, Tensor | int]:
        """What a later run needs to go on. The momentum of other processes' shares is gathered."""
        momentum = self.momentum.clone()
        if self.world > 1:
            for rank in range(self.world):
                dist.broadcast(momentum[self.bounds[rank] : self.bounds[rank + 1]], rank)
        return {"momentum": momentum, "second": self.second, "steps": self.steps}

    def load(self, state: dict[str, Tensor]) -> None:
        self.momentum.copy_(state["momentum"])
        self.second.copy_(state["second"])
        self.steps = int(state["steps"])
