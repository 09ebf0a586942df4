"""The section on this machine, as far as it can be told without torch: system, CPU, memory."""

import platform
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from qwen35cli.app.estimate import size

from .patience import ask
from .report import DoctorOptions, Section

CPUINFO = Path("/proc/cpuinfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Of what a CPU says that it can: what matters to our kernels, or to torch's.
FEATURES: Final = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)


def section(options: DoctorOptions) -> Section:
    """System, CPU, memory, C compiler."""
    import psutil  # late: compiled, and so may be broken

    memory = psutil.virtual_memory()
    limit = container_limit()
    cores = psutil.cpu_count(logical=False), psutil.cpu_count()
    features = cpu_features()
    found = compiler(options.environment)
    lines = [
        ("system", system()),
        ("CPU", f"{cpu_name()}, {cores[0] or '?'} cores, {cores[1] or '?'} threads"),
        ("CPU features", " ".join(features) or "not told by the system"),
        (
            "memory",
            f"{size(memory.total)}, {size(memory.available)} free"
            + (f", {size(limit)} for this container" if limit is not None else ""),
        ),
        ("C compiler", f"{found[0]}: {found[1]}" if found else "none"),
    ]
    facts = {
        "system": system(),
        "cpu": cpu_name(),
        "cores": cores[0],
        "threads": cores[1],
        "cpu_features": features,
        "memory_bytes": memory.total,
        "free_bytes": memory.available,
        "container_limit_bytes": limit,
        "c_compiler": found and found[0],
    }
    return Section("system", lines, facts)


def system() -> str:
    """Kernel, distribution and machine in a line."""
    parts = [f"{platform.system()} {platform.release()}", platform.machine()]
    with suppress(OSError):  # there is none outside of Linux
        parts.insert(0, platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"))
    if platform.system() == "Darwin":
        parts.insert(0, f"macOS {platform.mac_ver()[0]}")
    if "microsoft" in platform.release().lower():
        parts.append("WSL")
    if in_container():
        parts.append("in a container")
    return " · ".join(parts)


def cpu_name() -> str:
    """The CPU as it calls itself."""
    if CPUINFO.is_file():
        found = re.search(r"^(?:model name|Model)\s*: (.+)$", CPUINFO.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    if platform.system() == "Darwin":
        done = ask(["sysctl", "-n", "machdep.cpu.brand_string"])
        if done is not None and done.code == 0:
            return done.text.strip()
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Those of `FEATURES` that the system lists; none where it lists nothing."""
    if not CPUINFO.is_file():
        return []
    found = re.search(r"^(?:flags|Features)\s*: (.+)$", CPUINFO.read_text(), re.MULTILINE)
    known = set(found[1].split()) if found else set()
    return [feature for feature in FEATURES if feature in known]


def container_limit() -> int | None:
    """Bytes of memory that the container may take; None where nothing limits it."""
    try:
        text = CONTAINER_LIMIT.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def compiler(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The C compiler that Triton would take: its path, and how it names itself."""
    for name in filter(None, (environment.get("CC"), "gcc", "clang", "cc")):
        path = shutil.which(name)
        if path is not None:
            done = ask([path, "--version"])
            lines = done.text.splitlines() if done is not None and done.code == 0 else []
            return path, lines[0] if lines else "does not tell its version"
    return None


def in_container() -> bool:
    """Whether this is a container of Docker or Podman."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
