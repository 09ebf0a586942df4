"""The section on kernels: which run here and why, and whether each does what its twin does."""

from collections.abc import Sequence

from .probe_process import NO_GPU, Probed
from .report import DoctorOptions, Finding, Section
from .versions import build_again, version


def section(options: DoctorOptions, probed: Probed) -> Section:
    """What `probe` found of the kernels, or why it found nothing."""
    lines: list[tuple[str, str]] = []
    problems: list[Finding] = []
    notes: list[Finding] = []
    table = probed.kernels
    if table is None:
        lines.append(("kernels", "not known: " + _why_unknown(probed)))
    else:
        lines.append(("kernels", f"{table['description']}; {table['chosen']}"))
        if "suitable" in table:
            reason, note, problem = _variant(table["suitable"], table["built"])
            lines.append(("why", reason))
            notes += [note] if note else []
            problems += [problem] if problem else []
        elif table["backend"] == "triton":
            tuned = ", ".join(table["tuned"])
            lines.append(("launches", f"tuned here for {tuned}" if tuned else "as shipped"))
    if probed.torch is not None:
        level = f"{probed.torch['cpu_capability']}, {probed.torch['threads']} threads"
        lines.append(("torch on the CPU", level))
    problems += _why_none(options, probed)
    passed = [each for each in probed.tests if each["passed"]]
    failed = [each for each in probed.tests if not each["passed"]]
    if probed.tests:
        took = sum(each["ms"] for each in probed.tests)
        text = f"{len(passed)} passed, {len(failed)} failed, {took:.0f} ms"
        lines.append(("self-test", text + " (each against plain torch)"))
        lines += [("passed", ", ".join(each["op"] for each in passed))] if passed else []
        lines += [("FAILED", f"{each['op']}: {each['message']}") for each in failed]
    elif table is not None and table["backend"] == "reference":
        lines.append(("self-test", "nothing to test: this is what the others are tested against"))
    if failed:
        names = ", ".join(each["op"] for each in failed)
        problems.append(
            Finding(f"kernels do not compute what they should: {names}", _avoid(probed))
        )
    if probed.died is not None:
        during = f" in the test of {probed.testing}" if probed.testing else ""
        lines.append(("FAILED", f"the process of the test {probed.died}{during}"))
        problems.append(Finding(f"the test of the kernels {probed.died}{during}", _revive(probed)))
    facts = {
        "selected": dict(table) if table is not None else None,
        "torch_cpu_capability": probed.torch and probed.torch["cpu_capability"],
        "tests": [dict(each) for each in probed.tests],
        "died": probed.died,
        "during": probed.testing,
    }
    return Section("kernels", lines, facts, problems, notes)


def _why_none(options: DoctorOptions, probed: Probed) -> list[Finding]:
    """What kept the kernels from being looked at, unless another section says it."""
    if probed.unimportable is not None:
        if version("torch") is None:  # said where versions are
            return []
        mend = "pip install --force-reinstall torch"
        return [Finding(f"torch cannot be imported: {probed.unimportable}", mend)]
    no_gpu = options.device == "cuda" and not probed.gpus  # said where the GPUs are
    return [] if probed.problem is None or no_gpu else [probed.problem]


def _why_unknown(probed: Probed) -> str:
    if probed.unimportable is not None:
        return "torch cannot be imported"
    if probed.problem is not None:
        return probed.problem.what
    return f"the process that looked {probed.died}"


def _revive(probed: Probed) -> str:
    """What to do about a process that ended too early."""
    if probed.torch is None:
        return "pip install --force-reinstall torch"
    return _avoid(probed) if probed.looked else NO_GPU


def _avoid(probed: Probed) -> str:
    backend = probed.kernels["backend"] if probed.kernels is not None else "cpu"
    again = build_again() if backend == "cpu" else "pip install --force-reinstall triton"
    return f"{again}; until then: export QWEN35_KERNELS=reference"


def _variant(
    suitable: Sequence[str], built: Sequence[str]
) -> tuple[str, Finding | None, Finding | None]:
    """Why this variant of the compiled kernels runs; what would be faster; what is wrong."""
    if not built:
        return (
            f"none of {', '.join(suitable)} was built",
            None,
            Finding("the C++ kernels were not built: torch's own ops run, slower", build_again()),
        )
    better = list(suitable[: suitable.index(built[0])])
    reason = f"{built[0]} is the best of those built that this CPU runs: {', '.join(built)}"
    if not better:
        return reason, None, None
    what = f"this CPU runs {better[0]} too, and those kernels were not built"
    return f"{reason}; not built: {', '.join(better)}", Finding(what, build_again()), None
