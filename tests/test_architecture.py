"""What holds for the package as a whole; the floors themselves are import-linter's."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from qwen35cli.kernels import BACKENDS, Kernels

TESTS = Path(__file__).parent
FACTS = ("backend", "description", "steps_alike")
TWINS = {"draws": "sample_step"}  # where the plain backend has none, what it is compared with
OPS = [field.name for field in fields(Kernels) if field.name not in FACTS]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_every_override_has_a_twin_test(backend):
    here = torch.device("cpu")
    table, plain = BACKENDS[backend](here, {}), BACKENDS["reference"](here, {})
    overridden = [op for op in OPS if getattr(table, op) is not getattr(plain, op)]
    assert overridden
    written = "\n".join(path.read_text() for path in (TESTS / "kernels").glob("test_*.py"))
    for op in overridden:
        assert f"reference.{TWINS.get(op, op)}(" in written, (
            f"no test compares {op} with its plain twin"
        )


def test_a_backend_that_is_asked_for_is_the_one_that_runs():
    from qwen35cli.errors import UsageError
    from qwen35cli.kernels import select

    for name in BACKENDS:
        assert select(torch.device("cpu"), name).backend == name
    with pytest.raises(UsageError, match="no kernels named 'cuda-magic'"):
        select(torch.device("cpu"), "cuda-magic")
