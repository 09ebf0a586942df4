"""What of a machine is nobody's business, and is kept out of the report."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from qwen35cli.app.units import cut

from .report import Finding, Report, Section

# Never shown: what opens something, and what was said.
SECRET: Final = re.compile(r"TOKEN(?!S)|KEY|SECRET|PASSW|AUTH|CREDENTIAL|COOKIE", re.IGNORECASE)
SAID: Final = ("PROMPT", "SYSTEM", "SCHEMA", "FILE", "IMAGE", "SESSION")
PASSWORD: Final = re.compile(r"([A-Za-z][\w+.-]*://)\S*@|^[^/@\s:]+:\S*@")  # in addresses
# Folders that hold one for each user, so that a name stands below them.
USERS: Final = re.compile(r"(?<![\w.~-])((?:[A-Z]:)?[/\\](?:home|Users)[/\\])[^/\\:\s]+")


def may_be_shown(variable: str) -> bool:
    """Whether a variable holds neither a secret nor what somebody wrote to the model."""
    prefix, _, name = variable.upper().partition("_")
    return not SECRET.search(variable) and not (prefix == "QWEN35" and name in SAID)


def shown_value(variable: str, value: str) -> str:
    """What a report may hold of it."""
    if not may_be_shown(variable):
        return "set" if value else "empty"
    return cut(PASSWORD.sub(lambda found: f"{found[1] or ''}…@", value), 200)


def tidy(report: Report) -> Report:
    """The report with the home folder as `~`, and without names of users in other paths."""
    clean = _cleaner(_homes())
    sections = [
        Section(
            section.name,
            [(clean(label), clean(text)) for label, text in section.lines],
            clean(section.facts),
            clean(section.problems),
            clean(section.notes),
        )
        for section in report.sections
    ]
    return Report(sections, clean(report.problems), clean(report.notes))


def _homes() -> list[Path]:
    """The home folder, also as its links lead; none where nobody knows one."""
    try:
        home = Path.home()
    except RuntimeError:
        return []
    return [each for each in {home, home.resolve()} if len(each.parts) > 1]


def _cleaner(homes: list[Path]) -> Callable[[Any], Any]:
    """What takes homes and names out of text, wherever in a value it is."""
    changes = [(USERS, r"\1USER")]
    if homes:
        longest = sorted(map(str, homes), key=len, reverse=True)
        names = {home.name for home in homes} - {"root", "home"}
        changes.insert(0, (_pattern("|".join(map(re.escape, longest))), "~"))
        changes += [
            (re.compile(rf"(?<=[/\\]){re.escape(name)}(?=[/\\]|$)"), "USER") for name in names
        ]

    def clean(value: Any) -> Any:
        match value:
            case str():
                for pattern, instead in changes:
                    value = pattern.sub(instead, value)
                return value
            case Mapping():
                return {clean(key): clean(each) for key, each in value.items()}
            case Finding():
                return Finding(clean(value.what), clean(value.mend))
            case list() | tuple():
                return [clean(each) for each in value]
        return value

    return clean


def _pattern(paths: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-])(?:{paths})(?![\w.-])")
