"""A decode step of random numbers, to measure how its products are launched best.

Launches overlap, and each finds in the caches what the one before left there: what is fastest by
itself is not always fastest in a step. So a step is measured as a whole, of a few layers of each
kind and the head; its weights are more than an L2 cache keeps from one step to the next.
"""

import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import torch

from qwen35cli.checkpoint.names import parameter_shapes
from qwen35cli.engine.graph import Stepper
from qwen35cli.kernels import select
from qwen35cli.kernels.operands import FEW, KEPT, NoSteps
from qwen35cli.kernels.triton import step
from qwen35cli.kernels.triton.kernel import compiled_ahead
from qwen35cli.kernels.triton.launches import Launches
from qwen35cli.kernels.triton.matvec import Launch

from .device import seconds_of
from .estimate import Model
from .random_model import random_model, shortened

LEAST: Final = 8  # layers, where the model has so many
REPLAYS: Final = 16  # between two looks at the clock
ROUNDS: Final = 7


class Chain:
    """A step on a device.

    Args:
        launches: those of the step; they are changed here.
    """

    def __init__(self, model: Model, device: torch.device, launches: Launches) -> None:
        self.launches = launches
        config = shortened(model.config, LEAST)
        schemes = {name: model.weights[name].scheme for name in parameter_shapes(config)}
        kernels = replace(
            select(device, "triton"),
            token_step=lambda weights: step.token_step(weights, launches),
        )
        made = random_model(config, schemes, device, kernels)
        cache = made.make_cache(FEW, undo=True)
        for memory in cache.tensors():  # logs too, which nobody has written and steps read
            memory.zero_()
        found = made.token_step(cache)
        assert not isinstance(found, NoSteps), found.reason
        self._step, self._stepper = found, Stepper(made, cache, found)

    def compile(self, key: str, launches: Iterable[Launch]) -> None:
        """What a step runs where `key` is launched in each of these ways, unless it fails; that
        `seconds` says."""
        with compiled_ahead():
            for launch in launches:
                self.launches.table[key] = launch.numbers
                self._step(self._stepper.control, 1)

    def seconds(self, key: str, launch: Launch) -> float:
        """What a step takes where `key` is launched so, as it is from here on."""
        self.launches.table[key] = launch.numbers
        control = self._stepper.control
        run = self._stepper.captured(lambda: self._step(control, 1))
        control.numbers[KEPT] = 1  # as behind a token: only then are states written
        run()
        return statistics.median(
            seconds_of(run, control.ids.device, REPLAYS) for _ in range(ROUNDS)
        )
