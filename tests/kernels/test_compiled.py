"""The kernels compiled for cards that are not here, by Triton's own assembler."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this system")

DECODE = {
    "_embed_step", "_project", "_delta_step", "_add", "_swiglu", "_attend_step", "_peaks", "_draw"
}  # fmt: skip
DRAFTS = {"_join", "_best_rows", "_pick"}
PROMPT = {
    "_rms_norm", "_widen_int4", "_widen_int8", "_convolve", "_score", "_solve", "_carry",
    "_gated_norm", "_swiglu",
}  # fmt: skip


def test_all_kernels_fit_the_cards_of_desktops(tmp_path):
    flags = {"86": ("--tokens", "1"), "120": ("--tokens", "2")}  # RTX 30; RTX 50, with overlap
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "scripts.compile_kernels", "--formats", "int4", "--arch", *each],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        )
        for each in ((arch, *more) for arch, more in flags.items())
    ]
    for arch, process in zip(flags, running, strict=True):
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        assert set(re.findall(rf"^sm_{arch} (\w+) ", out, re.MULTILINE)) == DECODE | DRAFTS | PROMPT
        assert "Warning" not in err
