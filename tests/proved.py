"""A folder of quantized weights, read to its last byte."""

from pathlib import Path

from qwen35cli.app import verify
from qwen35cli.checkpoint.manifest import Manifest, check_manifest


def proved(folder: Path) -> Manifest:
    """Its manifest, to which all that `qwen35 verify` finds is true."""
    for found in verify.run(str(folder), None, folder):
        assert not isinstance(found, verify.Finding) or found.is_right, found
    return check_manifest(folder)
