"""The sections on settings that are not as built in, and on the environment."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from qwen35cli.app.unread import unread

from .privacy import shown_value
from .report import DoctorOptions, Finding, Section

PREFIX: Final = "QWEN35_"
SHOWN: Final = re.compile(
    r"(QWEN35|HF|HUGGING_?FACE|CUDA|NVIDIA|TRITON|TORCH|PYTORCH|OMP|GOMP|MKL|KMP|XDG)_\w+"
    r"|(https?|all|no)_proxy|CC|CXX|LD_LIBRARY_PATH|LD_PRELOAD|PYTHON(PATH|HOME|UTF8|IOENCODING)"
    r"|VIRTUAL_ENV|CONDA_PREFIX|TMPDIR|LANG|LC_ALL|TERM|COLORTERM|COLUMNS|NO_COLOR|FORCE_COLOR"
    r"|VISUAL|EDITOR|PAGER|WSL_DISTRO_NAME|DO_NOT_TRACK|TRANSFORMERS_(CACHE|OFFLINE)",
    re.IGNORECASE,
)


def section(options: DoctorOptions) -> Section:
    """Every setting that is not as built in: where from, and over what it prevails."""
    found: dict[str, list[tuple[str, str]]] = {}  # value and origin, the strongest last
    files: dict[str, dict[str, str]] = {}
    for path, content in options.files.items():
        files[str(path)] = said = dict(_flat(content))
        for name, value in said.items():
            found.setdefault(name, []).append((value, str(path)))
    for variable, value in sorted(options.environment.items()):
        if variable in options.known and value:
            name = variable.removeprefix(PREFIX).lower()
            found.setdefault(name, []).append((shown_value(variable, value), variable))
    lines = []
    for name, (*weaker, (value, origin)) in found.items():
        over = "".join(f"; over {each} of {where}" for each, where in reversed(weaker))
        lines.append((name, f"{value}  ({origin}{over})"))
    lines += [("not used", problem.what) for problem in options.refused]
    if not lines:
        lines.append(("settings", "all as built in"))
    facts = {
        "files": files,
        "set": [
            {"name": name, "value": value, "origin": origin, "over": [where for _, where in weaker]}
            for name, (*weaker, (value, origin)) in found.items()
        ],
    }
    return Section("settings", lines, facts, list(options.refused))


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The keys of a file, `table.key` those of a table, and what a report may hold of each."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, shown_value(PREFIX + key, str(value))


def variables(options: DoctorOptions) -> Section:
    """The variables that have a say here; of secrets and of what was said only that they are."""
    shown = {
        name: shown_value(name, value)
        for name, value in sorted(options.environment.items())
        if SHOWN.fullmatch(name)
    }
    problems = []
    for name in shown:
        if name.startswith(PREFIX) and options.known and name not in options.known:
            problems.append(Finding(*unread(name, options.known)))
    lines = list(shown.items()) or [("none", "nothing that matters is set")]
    return Section("environment", lines, {"variables": shown}, problems)
