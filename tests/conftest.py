import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():  # before the first import of Triton
    os.environ["TRITON_INTERPRET"] = "1"
# Of `poisoned`, cuBLAS would warn otherwise, and a warning is an error here.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """`torch.empty` comes filled with NaN: what a kernel forgets to write shows."""
    # The public switch does the same, but first imports torch's compiler: seconds.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    yield
    torch._C._set_deterministic_algorithms(False)
