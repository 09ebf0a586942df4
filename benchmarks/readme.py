"""Fill the README's tables from `benchmarks/results`: `python -m benchmarks.readme`.

Each table stands between two comments, `<!-- NAME -->` and `<!-- end of NAME -->`; a test holds the
README equal to what this writes.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


def speed(result: dict[str, Any]) -> str:
    """Ours against transformers, from `benchmarks.decode --peer transformers`."""
    ours, peer, ratio = result["ours"], result["transformers"], result["ratio"]
    rows = (
        ("decode, tokens/s", "decode_tps", 1, ".2f"),
        ("share of the memory's read bandwidth", "bandwidth_share", 100, ".0f"),
        *(
            (f"prefill of {int(name.rpartition('_')[2]):,} tokens, tokens/s", name, 1, ".1f")
            for name in peer
            if name.startswith("prefill_tps_of_")
        ),
        ("loading, s", "load_s", 1, ".1f"),
        ("peak memory, GB", "peak_bytes", 1e-9, ".2f"),
    )
    lines = ["| | qwen35 | transformers | ratio |", "|---|---:|---:|---:|"]
    for label, name, scale, form in rows:
        unit = " %" if name == "bandwidth_share" else ""
        cells = (f"{side[name] * scale:{form}}{unit}" for side in (ours, peer))
        lines.append(f"| {label} | {' | '.join(cells)} | {ratio[name]:.2f} |")
    return "\n".join([*lines, conditions(result)])


def conditions(result: dict[str, Any]) -> str:
    """On what, and beside which limits of the machine, a result of `benchmarks.decode` was had."""
    return (
        f"\n{result['machine']}, {result['threads']} cores, torch {result['torch']}, commit "
        f"{result['commit']}, memory read at {result['bandwidth_gb_s']:.1f} GB/s and the weight "
        f"files in {result['plain_read_s']:.1f} s in the same run; medians of {result['runs']}."
    )


def alone(result: dict[str, Any]) -> str:
    """One checkpoint by itself, from `benchmarks.decode` with depths and drafts."""
    ours = result["ours"]
    rows = [
        ("decode, tokens/s", f"{ours['decode_tps']:.2f}"),
        ("share of the memory's read bandwidth", f"{ours['bandwidth_share']:.0%}"),
    ]
    for name, value in ours.items():
        kind, _, number = name.rpartition("_")
        if kind == "decode_tps_at":
            kept = ours[f"speed_kept_at_{number}"]
            rows.append((f"decode behind {int(number):,} tokens", f"{value:.2f} ({kept:.0%})"))
        elif kind == "prefill_tps_of":
            rows.append((f"prefill of {int(number):,} tokens, tokens/s", f"{value:.1f}"))
        elif name.startswith("verify_"):
            tokens = name.split("_")[1]
            rows.append((f"a step of {tokens} tokens, against one", f"{value:.2f}"))
    rows.append(("loading, s", f"{ours['load_s']:.2f}"))
    rows.append(("peak memory, GB", f"{ours['peak_bytes'] / 1e9:.2f}"))
    lines = [f"| {result['format']} | |", "|---|---:|", *(f"| {k} | {v} |" for k, v in rows)]
    return "\n".join([*lines, conditions(result)])


def demo(result: dict[str, Any]) -> str:
    """Held-out accuracy, from `scripts.train_demo.evaluate`."""
    lines = ["| held-out questions | right | of |", "|---|---:|---:|"]
    for name, figure in result.items():
        if isinstance(figure, dict) and not name.startswith("draft"):
            lines.append(f"| {name} | {figure['share']:.1%} | {figure['n']:,} |")
    drafts = [figure for name, figure in result.items() if name.startswith("draft")]
    shares = " and ".join(f"{figure['share']:.1%}" for figure in drafts)
    lines.append(
        f"\nOf the MTP layer's first and second draft {shares} are the token that the model itself "
        f"takes ({drafts[0]['n']:,} and {drafts[1]['n']:,} drafts; greedy)."
    )
    return "\n".join(lines)


TABLES = {
    "speed": (speed, "decode-cpu.json"),
    "int4": (alone, "decode-int4.json"),
    "demo": (demo, "demo.json"),
}


def filled(text: str) -> str:
    """The README with every table made anew."""
    for name, (table, file) in TABLES.items():
        body = table(json.loads((RESULTS / file).read_text()))
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{start}.*?{end}", re.DOTALL)
        assert pattern.search(text), start
        text = pattern.sub(lambda _, new=f"{start}\n{body}\n{end}": new, text)
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
