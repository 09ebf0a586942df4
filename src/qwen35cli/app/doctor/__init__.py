"""`qwen35 doctor`: a report on this machine and this installation, that ends with what is wrong.

A module for each section; what runs torch is `probe`, in a process of its own, beside which the
other sections are made. Whatever a section runs into becomes a problem in the report, and the
others are written all the same. Free of torch.
"""

from collections.abc import Callable
from pathlib import Path

from qwen35cli.errors import Qwen35Error

from . import checkpoints, folders, gpus, kernels, machine, nvidia, settings, versions
from .privacy import tidy
from .probe_process import started
from .report import DoctorOptions, Finding, Places, Report, Section

__all__ = ["DoctorOptions", "Finding", "Places", "Report", "examine", "hub_folder"]

ORDER = (
    *("versions", "system", "gpu", "kernels"),
    *("folders", "checkpoints", "settings", "environment"),
)


def examine(options: DoctorOptions, say: Callable[[str], None]) -> Report:
    """Look at everything.

    Args:
        say: gets a line on what is being done.
    """
    made: dict[str, Section] = {}

    def make(name: str, maker: Callable[[], Section]) -> None:
        say(f"looking at {name} …")
        made[name] = _made(name, maker)

    with started(options) as probe:
        say("looking at GPUs …")
        cards = nvidia.cards()
        make("versions", versions.section)
        make("system", lambda: machine.section(options))
        make("folders", lambda: folders.section(options.places))
        told = bool(made["folders"].problems)
        make("checkpoints", lambda: checkpoints.section(options.places, told=told))
        make("settings", lambda: settings.section(options))
        make("environment", lambda: settings.variables(options))
        say("loading torch …")
        probed = probe.listen(say)
    make("gpu", lambda: gpus.section(options, probed, cards))
    make("kernels", lambda: kernels.section(options, probed))
    sections = [made[name] for name in ORDER]
    problems = [problem for section in sections for problem in section.problems]
    notes = [note for section in sections for note in section.notes]
    return tidy(Report(sections, problems, notes))


def _made(name: str, make: Callable[[], Section]) -> Section:
    """The section, or that it could not be made."""
    try:
        return make()
    except Qwen35Error as error:
        failed = Finding(error.message, error.hint or "give it to this user, or remove it")
    except ImportError as error:
        text = f"{name} could not be looked at: {error}"
        failed = Finding(text, f"pip install --force-reinstall {versions.origin()}")
    except Exception as error:  # a report on what is broken must not break
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        failed = Finding(
            f"{name} could not be looked at: {text}", "report this with the text above"
        )
    return Section(name, [("failed", failed.what)], {"failed": failed.what}, [failed])


def hub_folder() -> Path:
    """The cache that Hugging Face's tools share here."""
    try:
        from qwen35cli.checkpoint.hub import cache_folder  # late: a package may be missing

        return cache_folder()
    except ImportError:
        return Path.home() / ".cache" / "huggingface" / "hub"
