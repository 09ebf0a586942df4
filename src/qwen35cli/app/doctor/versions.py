"""The section on versions, and how this package was installed and is again."""

import json
import platform
import shlex
import shutil
import sys
from importlib import metadata
from typing import Final

from qwen35cli import __version__

from .report import Finding, Section

PACKAGES: Final = (  # those that reports are about, first; others are told where they are missing
    *("torch", "triton", "triton-windows", "huggingface_hub", "hf-xet", "safetensors"),
    *("tokenizers", "numpy", "pillow", "prompt_toolkit", "rich", "typer", "llguidance"),
    *("bitsandbytes", "platformdirs", "filelock", "psutil"),
)


def section() -> Section:
    """Of everything that takes part."""
    found = {name: told for name in PACKAGES if (told := version(name)) is not None}
    python = f"{platform.python_implementation()} {platform.python_version()}"
    lines = [
        ("qwen35", __version__),
        ("Python", f"{python}, {sys.executable}"),
        *found.items(),
    ]
    problems = []
    missing, old = unmet()
    if missing:
        problems.append(
            Finding(
                "packages that qwen35 needs are not installed: " + ", ".join(missing),
                "pip install " + " ".join(missing),
            )
        )
    for name, told, wanted in old:
        problems.append(
            Finding(
                f"{name} {told} is installed, qwen35 needs {name}{wanted}",
                f'pip install "{name}{wanted}"',
            )
        )
    facts = {"qwen35": __version__, "python": platform.python_version()}
    return Section("versions", lines, facts | {"packages": found}, problems)


def version(package: str) -> str | None:
    """Of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def unmet() -> tuple[list[str], list[tuple[str, str, str]]]:
    """What our own package asks for: what is missing, and what has another version than wanted."""
    from packaging.requirements import Requirement  # late: of what huggingface_hub brings

    missing, other = [], []
    for text in metadata.requires("qwen35cli") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        told = version(wanted.name)
        if told is None:
            missing.append(wanted.name)
        elif not wanted.specifier.contains(told, prereleases=True):
            other.append((wanted.name, told, str(wanted.specifier)))
    return missing, other


def build_again() -> str:
    """The command that builds the C++ kernels anew."""
    command = f"pip install --force-reinstall --no-deps --no-cache-dir {origin()}"
    if any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        return command
    return f"install a C++ compiler (Debian, Ubuntu: sudo apt install g++), then: {command}"


def origin() -> str:
    """What pip installed this package from, as it takes it again."""
    try:
        text = metadata.distribution("qwen35cli").read_text("direct_url.json")
        origin = json.loads(text) if text else {}
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if url.startswith("file://"):
        path = shlex.quote(url.removeprefix("file://"))
        return f"-e {path}" if origin.get("dir_info", {}).get("editable") else path
    if url and "vcs_info" in origin:
        return f"{origin['vcs_info'].get('vcs', 'git')}+{url}"
    return url or "qwen35cli"
