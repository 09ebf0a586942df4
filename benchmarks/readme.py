"""Fill the README from `benchmarks/results` and the program: `python -m benchmarks.readme`.

Each table, and the help, stands between two comments, `<!-- NAME -->` and `<!-- end of NAME -->`; a
test holds the README equal to what this writes.
"""

import json
import os
import re
import subprocess
import sys
from functools import partial
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
        f"\n{machine(result)}, {result['threads']} cores, torch {result['torch']}, commit "
        f"{result['commit']}, memory read at {result['bandwidth_gb_s']:.1f} GB/s and the weight "
        f"files in {result['plain_read_s']:.1f} s in the same run; medians of {result['runs']}."
    )


def machine(result: dict[str, Any]) -> str:
    """The CPU with what it has for products of few bits."""
    units = [each for each in result["cpu_features"] if re.match("avx512_|avx_vnni|amx_", each)]
    return f"{result['machine']} ({', '.join(units or result['cpu_features'][-1:])})"


def formats(*results: dict[str, Any]) -> str:
    """Our checkpoints side by side, from `benchmarks.decode` with depths and drafts."""
    columns = [cells(result["ours"]) for result in results]
    names = [f"{r['format']}{', int8 KV' * (r['kv_dtype'] == 'int8')}" for r in results]
    labels = dict.fromkeys(label for column in columns for label in column)
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    lines += [
        f"| {label} | {' | '.join(column.get(label, '') for column in columns)} |"
        for label in labels
    ]
    speeds = ", ".join(f"{r['bandwidth_gb_s']:.1f}" for r in results)
    first = results[0]
    commits = ", ".join(dict.fromkeys(result["commit"] for result in results))
    return "\n".join(lines) + (
        f"\n\n{machine(first)}, {first['threads']} cores, torch {first['torch']}, commit "
        f"{commits}; memory read at {speeds} GB/s in these runs; medians of "
        f"{first['runs']} (prefill: fewer)."
    )


def cells(ours: dict[str, float]) -> dict[str, str]:
    """The rows of one checkpoint, in their order."""
    rows = {
        "decode, tokens/s": f"{ours['decode_tps']:.2f}",
        "share of the memory's read bandwidth": f"{ours['bandwidth_share']:.0%}",
        "the same, token and read in turn": f"{ours['bandwidth_share_in_turn']:.0%}",
    }
    for name, value in ours.items():
        kind, _, number = name.rpartition("_")
        if kind == "speed_kept_at":
            rows[f"speed kept behind {int(number):,} tokens"] = f"{value:.0%}"
        elif kind == "prefill_tps_of":
            rows[f"prefill of {int(number):,} tokens, tokens/s"] = f"{value:.1f}"
        elif name.startswith("verify_"):
            rows[f"a step of {name.split('_')[1]} tokens, against one"] = f"{value:.2f}"
        elif kind == "peak_bytes_at":
            rows[f"peak memory with {int(number):,} tokens, GB"] = f"{value / 1e9:.2f}"
    return rows | {
        "loading, s": f"{ours['load_s']:.2f}",
        "peak memory, GB": f"{ours['peak_bytes'] / 1e9:.2f}",
    }


def gpu(result: dict[str, Any]) -> str:
    """The recipes side by side on one card, from `benchmarks.decode --device cuda`."""
    found = result["formats"]
    lines = [f"| | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]

    def add(label: str, values: list[str]) -> None:
        lines.append(f"| {label} | {' | '.join(values)} |")

    for kv in ("bf16", "int8"):
        for context in next(iter(found.values()))["decode"][kv]:
            speeds = [
                each["decode"][kv][context]["spoken_tps"]["median"] for each in found.values()
            ]
            add(f"{int(context):,} tokens, {kv} KV", [f"{speed:.0f}" for speed in speeds])
    chunk = max(map(int, next(iter(found.values()))["prefill"]))
    for prompt in next(iter(found.values()))["prefill"][str(chunk)]:
        speeds = [each["prefill"][str(chunk)][prompt]["median"] for each in found.values()]
        add(f"prefill of {int(prompt):,} tokens", [f"{speed:,.0f}" for speed in speeds])
    add("launches a token", [f"{each['graph']['launches']}" for each in found.values()])
    if all("drafts" in each for each in found.values()):
        for count in next(iter(found.values()))["drafts"]["round_cost"]:
            costs = [each["drafts"]["round_cost"][count] for each in found.values()]
            plural = "s" if count != "1" else ""
            label = f"a round of {count} draft{plural}, in plain tokens"
            add(label, [f"{cost:.2f}" for cost in costs])
    peers, bandwidth = result.get("peers", {}), result["bandwidth"]
    missing = [name for name in ("transformers", "nf4") if "tps" not in peers.get(name, {})]
    if missing:
        sys.exit(f"the GPU result has no {' and no '.join(missing)}: measure it with its peers")
    plain, nf4 = (peers[name]["tps"]["median"] for name in ("transformers", "nf4"))
    return "\n".join(lines) + (
        f"\n\n{result['device']['name']}, torch {result['device']['torch']}, Triton "
        f"{result['device']['triton']}, commit {result['commit']}; a copy moves "
        f"{bandwidth['copy_tb_s']['median']:.2f} TB/s; tokens/s, medians. In the same run "
        f"`transformers` {peers['transformers']['version']} decodes {plain:.1f} tokens/s in bf16 "
        f"and {nf4:.1f} with nf4 of bitsandbytes {peers['nf4']['version']}."
    )


def start(result: dict[str, Any]) -> str:
    """From the shell to the first token, from `benchmarks.start`."""
    return (
        f"From the shell to the first token of `qwen35 ask` with a prompt of "
        f"{result['prompt_tokens']:.0f} tokens (int4, files in the page cache): "
        f"{result['first_token_s']:.1f} s, of which {result['before_s']:.1f} s are Python, imports "
        f"(torch alone {result['torch_s']:.1f} s), tokenizer and headers, {result['load_s']:.1f} s "
        f"loading and {result['prefill_s']:.1f} s the prompt; median of {result['runs']}."
    )


def busy(result: dict[str, Any]) -> str:
    """Decoding beside other programs, from `benchmarks.busy`."""
    alone, *beside = result["decode_tps"]["ours"]
    theirs = " and ".join(f"{speed:.1f}" for speed in result["decode_tps"]["libgomp"][1:])
    ours = " and ".join(f"{speed:.1f}" for speed in beside)
    return (
        f"Alone on the {result['cores']} cores it decodes {alone:.1f} tokens/s there, beside one "
        f"and two programs that compute all the time {ours}; by the waiting that OpenMP's threads "
        f"have of themselves, {theirs} (medians of {result['runs']})."
    )


def drafts(forced: dict[str, Any], own: dict[str, Any]) -> str:
    """What drafts cost and bring, from `benchmarks.speculate`."""
    lines = [
        "| drafts in a round | 1 | 2 | 3 | 4 | auto |",
        "|---|---:|---:|---:|---:|---:|",
        row("int4: cost of a round, in plain tokens", forced, "round_cost_", auto=False),
        row(f"int4: speed at {forced['acceptance']:.0%} acceptance, over plain", forced, "gain_"),
        row("demo: speed on its own questions, over plain", own, "gain_"),
        row("demo: the same, with the prompt", own, "whole_gain_"),
    ]
    accepted = ", ".join(f"{share:.1%}" for share in own["acceptance"])
    return "\n".join(lines) + (
        f"\n\n{forced['machine']}, {forced['threads']} threads. At no acceptance `auto` reaches "
        f"{forced['gain_auto_at_0']:.0%} of plain decoding over 200 tokens. The demo accepts "
        f"{accepted} of the drafts at depth 1 to 4 ({own['questions']} questions)."
    )


def row(label: str, result: dict[str, Any], prefix: str, auto: bool = True) -> str:
    """Figures of one to four drafts, and of as many as pay."""
    names = ("1", "2", "3", "4", *(["auto"] if auto else []))
    values = [f"{result[prefix + name]:.2f}" for name in names]
    return f"| {label} | {' | '.join(values)} |" + ("" if auto else " |")


def memory(result: dict[str, Any]) -> str:
    """The estimate beside what was taken, from `benchmarks.memory`."""
    lines = [
        "| weights, KV, context | estimated, GiB | taken, GiB | off by |",
        "|---|---:|---:|---:|",
    ]
    for run in result["runs"]:
        low, total, high, taken = (
            run[name] / 2**30 for name in ("low", "total", "high", "measured")
        )
        more = ", drafting" if run["mtp"] else ""
        more += ", no vision" if "--no-vision" in run["command"] else ""
        lines.append(
            f"| {run['quant']}, {run['kv_dtype']}, {run['ctx']:,}{more} | {total:.2f} "
            f"({low:.2f} to {high:.2f}) | {taken:.2f} | {taken / total - 1:+.1%} |"
        )
    return (
        "\n".join(lines) + f"\n\n{result['machine']}; resident memory of the process at its peak."
    )


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


def turns(result: dict[str, Any]) -> str:
    """What turn memory is worth, from `benchmarks.turns`."""
    figures = result["figures"]
    rows = (
        ("the first turn, which reads everything", "cold_s", "tokens"),
        ("the next turn", "warm_s", "new"),
        ("`/regen`", "again_s", "again_new"),
        ("another message after `/undo`", "instead_s", "instead_new"),
        ("the next turn after `qwen35 chat -c`", "back_s", "back_new"),
    )
    lines = ["| | tokens read | first token, s |", "|---|---:|---:|"]
    lines += [f"| {name} | {figures[new]:,.0f} | {figures[s]:.2f} |" for name, s, new in rows]
    state, saved = figures["state_bytes"] / 2**20, figures["saved_bytes"] / 2**30
    taken, back = 1e3 * figures["snapshot_s"], 1e3 * figures["return_s"]
    lines.append(
        f"\n{result['cpu']}, int4 4B of random numbers, commit {result['commit']}; medians of "
        f"{result['runs']}, `{result['command']}`. Taking a state of {state:.0f} MiB takes "
        f"{taken:.0f} ms, returning to it {back:.0f} ms. Leaving saved {saved:.2f} GiB in "
        f"{figures['save_s']:.1f} s; bringing {figures['restored']:,.0f} tokens back took "
        f"{figures['restore_s']:.1f} s."
    )
    return "\n".join(lines)


def bench(result: dict[str, Any]) -> str:
    """What `qwen35 bench --json` says, with its command and commit added."""
    lines = [
        "| tokens | prompt, tokens/s | first token, s | decode behind it, tokens/s | bandwidth |"
    ]
    lines.append("|---:|---:|---:|---:|---:|")
    prompts = {each["tokens"]: each for each in result["prefill"]}
    for each in result["decode"]:
        prompt = prompts.get(each["ctx"])
        read = f"{prompt['tokens_per_s']:.1f} | {prompt['first_token_s']:.1f}" if prompt else " | "
        speed, share = each["tokens_per_s"], each["bandwidth_share"]
        lines.append(f"| {each['ctx']:,} tokens | {read} | {speed:.2f} | {share:.0%} |")
    machine = result["machine"]
    peak, estimated = result["peak_bytes"] / 2**30, result["estimated_bytes"] / 2**30
    lines.append(
        f"\n{machine['device']}, {machine['threads']} threads, {machine['kernels']}, torch "
        f"{machine['torch']}, commit {result['commit']}; {result['quant']} weights, "
        f"{result['kv_dtype']} KV, memory read at {result['bandwidth_gb_s']:.1f} GB/s, peak "
        f"{peak:.2f} GiB (estimated {estimated:.2f}); "
        f"medians of {result['runs']}, `{result['command']}`."
    )
    return "\n".join(lines)


def help_block(*command: str) -> str:
    """`qwen35 COMMAND --help`, the same wherever it is made: as wide as a terminal of old."""
    fixed = {"COLUMNS": "80", "PYTHONUTF8": "1"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("QWEN35_", "_QWEN35_", "TYPER_", "_TYPER_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "qwen35cli", *command, "--help"],
        env=kept | fixed,
        capture_output=True,
        encoding="utf-8",
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return f"```\n{done.stdout.rstrip()}\n```"


TABLES: dict[str, tuple[Any, ...]] = {
    "speed": (speed, "decode-cpu.json"),
    "formats": (
        formats,
        "decode-int4.json",
        "decode-int4-kv8.json",
        "decode-int8.json",
        "decode-nf4.json",
    ),
    "gpu": (gpu, "decode-gpu.json"),
    "start": (start, "start-int4.json"),
    "busy": (busy, "busy-int4.json"),
    "drafts": (drafts, "speculate-int4.json", "speculate-demo.json"),
    "memory": (memory, "memory-cpu.json"),
    "turns": (turns, "turns-cpu.json"),
    "bench": (bench, "bench-avx512.json"),
    "demo": (demo, "demo.json"),
    "help": (help_block,),
    "help of ask": (partial(help_block, "ask"),),
}


def filled(text: str) -> str:
    """The README with every table made anew."""
    for name, (table, *files) in TABLES.items():
        body = table(*(json.loads((RESULTS / file).read_text()) for file in files))
        first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{first}.*?{last}", re.DOTALL)
        assert pattern.search(text), first
        text = pattern.sub(lambda _, new=f"{first}\n{body}\n{last}": new, text)
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
