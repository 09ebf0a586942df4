"""Launches captured in a CUDA graph, to be sent to the device again and again as one."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def captured(run: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """`run` as a graph; it runs once before, so that all of it is compiled. Elsewhere `run` itself.

    What it returns is returned by each replay: tensors whose contents that has renewed.
    """
    if device.type != "cuda":
        return run
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        run()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> T:
        graph.replay()
        return result

    return replay
