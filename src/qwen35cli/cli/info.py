"""`qwen35 info`: a checkpoint in words and tables, from everything but its weights."""

import shlex
from typing import TYPE_CHECKING, Any

import typer

from .columns import fitted
from .flags import grouped
from .ls import places
from .options import DEFAULT_MODEL, Model, Revision
from .sessions import ListFlags
from .terminal import Terminal
from .words import counted, home, in_line, size

if TYPE_CHECKING:
    from rich.table import Table

    from qwen35cli.app.info import Info

LABEL = 14  # columns


@grouped
def info(
    context: typer.Context,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    *,
    flags: ListFlags,
) -> None:
    """Say what a checkpoint is, without reading its weights.

    Its config, its tensors and their bytes, how it is or would be quantized, where it is from, the
    hashes of its files. MODEL may also be the name of quantized weights as `qwen35 ls` shows it.

    Examples:
      qwen35 info
      qwen35 info demo
      qwen35 info ./my-finetune-int8
      qwen35 info Qwen/Qwen3.5-4B:int4-g32 --json | jq '.files[].sha256'
    """
    terminal: Terminal = context.obj
    from qwen35cli.app import info as use_case

    found = use_case.look(model, revision, places())
    if flags.json:
        terminal.write_json(as_json(found))
        return
    out = terminal.stdout()
    out.write(text([*origin(found), *config(found)]) + "\n")
    terminal.show(tensors(found, terminal.columns))
    out.write("\n" + text(plan(found)) + "\n" + files(found))


def text(rows: list[tuple[str, str]]) -> str:
    """Lines with a label each."""
    return "".join(f"{label:<{LABEL}}{in_line(said)}".rstrip() + "\n" for label, said in rows)


def origin(found: "Info") -> list[tuple[str, str]]:
    """What it is, where it lies and where it is from."""
    checkpoint, manifest = found.checkpoint, found.manifest
    shards = sum(file.name.endswith(".safetensors") for file in found.files)
    rows = [
        ("model", found.source.name),
        ("from", found.kind),
        ("folder", home(checkpoint.folder)),
        ("revision", found.source.revision or ""),
        (
            "weights",
            f"{many(found.weights)}, {checkpoint.format}, "
            f"{size(checkpoint.nbytes)} in {counted(shards, 'file')}",
        ),
        ("verified", verified(found)),
    ]
    if manifest is not None:
        source = manifest.source
        at = f" at {source.revision}" if source.revision else ""
        rows += [("made from", f"{source.name}{at}"), ("made by", manifest.tool)]
    return [(label, said) for label, said in rows if said]


def many(count: int) -> str:
    """A number of weights in words."""
    return f"{count / 1e9:.2f} billion" if count >= 1e8 else f"{count / 1e6:.2f} million"


def verified(found: "Info") -> str:
    """Whether the bytes are known to be right."""
    if found.manifest is not None:
        again = f"qwen35 verify {shlex.quote(str(found.checkpoint.folder))} reads every byte"
        return f"the sizes are those of its manifest; {again}"
    if found.is_verified is None:
        return ""
    if found.is_verified:
        return "yes: every file had its hash, and is unchanged since"
    return f"no; qwen35 verify {found.source.name} --revision {found.source.revision} does it"


def config(found: "Info") -> list[tuple[str, str]]:
    """The config in words."""
    from qwen35cli.app.estimate import size as memory
    from qwen35cli.model import sizes

    whole = found.checkpoint.config
    text, vision, rotary = whole.text, whole.vision, whole.text.rotary
    full, delta = sizes.attention_layers(text), sizes.delta_layers(text)
    token = full * sizes.kv_bytes_per_token(text)
    head = "the output head shares the embedding" if whole.tie_word_embeddings else "own head"
    yarn = rotary.yarn
    rows = [
        (
            "layers",
            f"{text.num_hidden_layers}: {delta} DeltaNet, {full} attention; "
            f"{text.hidden_size:,} wide, MLP {text.intermediate_size:,}",
        ),
        (
            "attention",
            f"{text.num_attention_heads} query and {text.num_key_value_heads} KV heads "
            f"of {text.head_dim}; rotary on {rotary.dim}, base {rotary.theta:,.0f}",
        ),
        (
            "DeltaNet",
            f"{text.linear_num_key_heads} key and {text.linear_num_value_heads} value heads "
            f"of {text.linear_key_head_dim} and {text.linear_value_head_dim}; "
            f"convolution over {text.linear_conv_kernel_dim} tokens",
        ),
        ("vocabulary", f"{text.vocab_size:,} tokens; {head}"),
        (
            "context",
            f"{text.max_context:,} tokens"
            + (f", by YaRN from {yarn.original_max_position_embeddings:,}" if yarn else ""),
        ),
        (
            "memory",
            f"{token / 1024:g} KiB for a token (bf16 KV), "
            f"{memory(sizes.state_bytes(text))} of DeltaNet state",
        ),
        (
            "vision",
            "none"
            if vision is None
            else f"{vision.depth} layers, {vision.hidden_size:,} wide, {vision.num_heads} heads; "
            f"patches of {vision.patch_size}×{vision.patch_size} pixels, "
            f"{vision.spatial_merge_size}×{vision.spatial_merge_size} to a token",
        ),
        ("MTP layer", "yes, it can draft" if text.mtp_num_hidden_layers else "none"),
    ]
    return rows


def tensors(found: "Info", columns: int | None) -> "Table":
    """The tensors by class; of a bf16 checkpoint also what the int4 recipe makes of them."""
    parts, total = found.parts, found.checkpoint
    cells = {  # the first are the last to go
        "bytes": [f"{n:,}" for n in (*(part.nbytes for part in parts), total.nbytes)],
        "stored as": [*(", ".join(part.stored) for part in parts), ""],
        "weights": [f"{n:,}" for n in (*(part.weights for part in parts), found.weights)],
        "count": [f"{n:,}" for n in (*(part.tensors for part in parts), len(total.tensors))],
    }
    if found.sizes:
        planned = (*(part.planned_nbytes or 0 for part in parts), found.sizes["int4"])
        cells["its bytes"] = [f"{nbytes:,}" for nbytes in planned]
        cells["int4 recipe"] = [*(", ".join(part.planned) for part in parts), ""]
    order = ("count", "weights", "bytes", "stored as", "int4 recipe", "its bytes")
    right = ("count", "weights", "bytes", "its bytes")
    names = [*(part.label for part in parts), "all"]
    return fitted("tensors", names, cells, columns, order=order, right=right)


def plan(found: "Info") -> list[tuple[str, str]]:
    """By which rules it was quantized, or how large it would be."""
    if found.manifest is not None:
        rules = found.manifest.rules
        return [
            ("quantized by", "the first rule that matches"),
            *(("", f"{scheme} {glob}") for glob, scheme in rules),
        ]
    rows = [("", f"{format} {size(nbytes)}") for format, nbytes in found.sizes.items()]
    return [("quantized", "by the recipes of qwen35 quantize"), *rows]


def files(found: "Info") -> str:
    """The files as sha256sum lists them, with their bytes."""
    rows = []
    for file in found.files:
        digest = file.sha256 or "no SHA-256 known"
        rows.append(f"{digest:<64}  {file.nbytes:>14,}  {in_line(file.name)}\n")
    return "".join(rows)


def as_json(found: "Info") -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    checkpoint, manifest = found.checkpoint, found.manifest
    raw = dict(checkpoint.raw_config)
    raw.pop("quantization_config", None)
    return {
        "model": found.source.name,
        "kind": found.kind,
        "path": str(checkpoint.folder),
        "revision": found.source.revision,
        "format": checkpoint.format,
        "weights": found.weights,
        "bytes": checkpoint.nbytes,
        "max_ctx": checkpoint.config.text.max_context,
        "verified": found.is_verified,
        "config": raw,
        "tensors": [
            {
                "class": part.name,
                "label": part.label,
                "tensors": part.tensors,
                "weights": part.weights,
                "bytes": part.nbytes,
                "stored": list(part.stored),
                "planned": list(part.planned) or None,
                "planned_bytes": part.planned_nbytes,
            }
            for part in found.parts
        ],
        "quantized_bytes": dict(found.sizes) or None,
        "manifest": None
        if manifest is None
        else {
            "tool": manifest.tool,
            "format": manifest.format,
            "rules": [list(rule) for rule in manifest.rules],
            "source": manifest.source.name,
            "source_path": manifest.source.folder,
            "source_revision": manifest.source.revision,
        },
        "files": [
            {"name": file.name, "bytes": file.nbytes, "sha256": file.sha256} for file in found.files
        ],
    }
