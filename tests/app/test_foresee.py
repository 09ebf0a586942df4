"""What will not fit is refused before it is downloaded, by the rule that loading goes by."""

import pytest
import torch

from qwen35cli.app import foresee
from qwen35cli.app.load import LoadOptions
from qwen35cli.errors import DoesNotFitError, UsageError
from qwen35cli.model.siblings import SIBLINGS

NAME = "Qwen/Qwen3.5-4B"


@pytest.fixture
def check(monkeypatch):
    """Whether the 4B fits a CPU with so many GiB free."""

    def call(gib, **more):
        monkeypatch.setattr(foresee, "free_bytes", lambda device: int(gib * 2**30))
        options = LoadOptions(model=NAME, **({"quant": "auto"} | more))
        foresee.check_fit(options, torch.device("cpu"), SIBLINGS[NAME])

    return call


def test_what_fits_passes(check):
    check(24)
    check(6)  # with a smaller context, as nobody asked for another


def test_what_does_not_is_refused_with_numbers(check):
    with pytest.raises(DoesNotFitError, match=r"would not run here, nothing was downloaded: .*GiB"):
        check(3)


def test_the_format_that_was_asked_for_counts(check):
    with pytest.raises(DoesNotFitError):
        check(6, quant="bf16")


def test_the_context_that_was_asked_for_counts(check):
    with pytest.raises(DoesNotFitError, match="262,144 tokens"):
        check(6, ctx=262_144)
    with pytest.raises(UsageError):
        check(99, ctx=2_000_000)
