"""Which tensor is stored how: schemes, the recipes. Free of torch.

A recipe keeps at 16 bits what is small or feeds an exponential, at 8 bits what is sensitive (the
projections that write to the residual stream, the head, the MTP layer), and the rest at 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, Self, cast, get_args

from qwen35cli.errors import ModelError, UsageError

Kind = Literal["keep", "int8", "int4", "nf4"]
Format = Literal["bf16", "int8", "int4", "nf4"]

GROUPS: Final[Mapping[str, tuple[int, ...]]] = {"int4": (32, 64, 128), "nf4": (32, 64, 128)}
DEFAULT_GROUP: Final[Mapping[str, int]] = {"int4": 32, "nf4": 64}
MARK: Final[Mapping[str, str]] = {"int4": "g", "nf4": "b"}  # "int4-g32", "nf4-b64"

NOTE_BYTES = 256  # of the JSON note that bitsandbytes keeps with a tensor, padded with blanks
NESTED = 256  # block maxima of nf4 that share a second scale; entries of their table

VERSION = 1
FETCH_AGAIN = "the file is damaged or of another version: quantize the checkpoint again"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a matrix is stored. `group` is the number of weights that share a scale; 0: a row."""

    kind: Kind
    group: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scheme written as `keep`, `int8`, `int4-g32` or `nf4-b64`.

        Raises:
            ValueError: it is none of these; the message says which there are.
        """
        for scheme in known_schemes():
            if str(scheme) == text:
                return cls(scheme.kind, scheme.group)
        raise ValueError(f"{text[:40]!r} is none of {', '.join(map(str, known_schemes()))}")

    def __str__(self) -> str:
        return f"{self.kind}-{MARK[self.kind]}{self.group}" if self.group else self.kind

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the file's tensors for a matrix (N, K); `keep` counts as bf16, of any shape."""
        if self.kind == "keep":
            count = 2
            for size in shape:
                count *= size
            return count
        N, K = shape
        if self.kind == "int8":
            return 4 * N * -(-K // 4) + 2 * N + 16
        if self.kind == "int4":
            return 4 * N * -(-K // 8) + 2 * N * -(-K // self.group) + 16
        blocks = -(-N * K // self.group)
        tables = 4 * (16 + NESTED) + NOTE_BYTES
        return -(-N * K // 2) + blocks + 4 * -(-blocks // NESTED) + tables

    def loaded_nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the matrix in memory: as in the file, but nf4 has its factors as float32."""
        if self.kind != "nf4":
            return self.nbytes(shape)
        N, K = shape
        return -(-N * K // 2) + 4 * -(-N * K // self.group) + 4 * 16


KEEP = Scheme("keep")
INT8 = Scheme("int8")


def known_schemes() -> list[Scheme]:
    """Every scheme that can be asked for."""
    return [KEEP, INT8, *(Scheme(cast(Kind, kind), g) for kind in GROUPS for g in GROUPS[kind])]


@dataclass(frozen=True, slots=True)
class Plan:
    """Rules from names to schemes: the first glob that matches a checkpoint name counts.

    What no rule matches is kept, and so is all but two-dimensional `*.weight`.
    """

    format: Format
    rules: tuple[tuple[str, Scheme], ...]
    overrides: int = 0  # rules at the start that a plan file added: each must match something


def recipe(format: str, group: int | None = None) -> Plan:
    """The rules of a format; `group` is the group of int4 (32) or the block of nf4 (64).

    Raises:
        UsageError: no such format or group.
    """
    if format not in get_args(Format):
        raise UsageError(
            f"there is no format {format!r}", f"--format {' | '.join(get_args(Format))}"
        )
    chosen = cast(Format, format)
    if chosen not in GROUPS and group is not None:
        raise UsageError(f"{chosen} has no groups of weights", "leave out --group")
    if chosen == "bf16":
        return Plan(chosen, ())
    if chosen == "int8":
        small = INT8
    else:
        size = DEFAULT_GROUP[chosen] if group is None else group
        if size not in GROUPS[chosen]:
            sizes = " | ".join(map(str, GROUPS[chosen]))
            raise UsageError(f"{chosen} has no groups of {size} weights", f"--group {sizes}")
        small = Scheme(chosen, size)
    return Plan(
        chosen,
        (
            ("mtp.*", INT8),
            ("lm_head.weight", INT8),
            ("model.language_model.embed_tokens.weight", INT8),
            ("model.language_model.*.linear_attn.out_proj.weight", INT8),
            ("model.language_model.*.self_attn.o_proj.weight", INT8),
            ("model.language_model.*.mlp.*_proj.weight", small),
            ("model.language_model.*.linear_attn.in_proj_qkv.weight", small),
            ("model.language_model.*.linear_attn.in_proj_z.weight", small),
            ("model.language_model.*.self_attn.[qkv]_proj.weight", small),
        ),
    )


def assign(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Scheme]:
    """The scheme of every tensor, `keep` included, in the order of `shapes` (checkpoint names).

    Raises:
        UsageError: a rule of a plan file matches nothing that can be quantized, or gives a tensor a
            scheme that it cannot have.
    """
    used = set()
    assigned = {}
    for name, shape in shapes.items():
        assigned[name] = KEEP
        if not quantizable(name, shape):
            continue
        for number, (glob, scheme) in enumerate(plan.rules):
            if fnmatchcase(name, glob):
                used.add(number)
                _check(name, shape, scheme, plan)
                assigned[name] = scheme
                break
    for number, (glob, scheme) in enumerate(plan.rules[: plan.overrides]):
        if number not in used:
            raise UsageError(
                f"the plan's {glob!r} = {str(scheme)!r} matches no matrix that it could change",
                "--plan prints the names; an earlier rule may match the same tensors",
            )
    return assigned


def quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a matrix that something is multiplied with, or the token embedding."""
    return len(shape) == 2 and name.endswith(".weight") and not name.endswith(".pos_embed.weight")


def _check(name: str, shape: tuple[int, ...], scheme: Scheme, plan: Plan) -> None:
    if scheme.kind in ("int4", "nf4") and name.endswith(".embed_tokens.weight"):
        raise UsageError(
            f"{name} cannot be {scheme}: tokens are looked up in it row by row",
            'give it "int8" or "keep"',
        )
    if scheme.kind == "nf4" and shape[0] * shape[1] % 2:
        raise UsageError(f"{name} cannot be nf4: {list(shape)} is an odd number of weights")
    if scheme.kind in ("int4", "nf4") and scheme.kind != plan.format:
        raise UsageError(
            f"{name} cannot be {scheme} in a checkpoint of format {plan.format}",
            f"--format {scheme.kind}",
        )


# -- the plan inside a checkpoint's config.json ---------------------------------------------------


def describe(format: str, schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint whose tensors have these schemes.

    Args:
        format: of the plan; not bf16.
        schemes: by checkpoint name; `keep` may be among them.

    For nf4 it is one that transformers and bitsandbytes load; they keep as bf16 what is int8 here.
    """
    tensors = {name: str(scheme) for name, scheme in schemes.items() if scheme.kind != "keep"}
    if format != "nf4":
        return {"quant_method": "qwen35", "version": VERSION, "format": format, "tensors": tensors}
    whole = [
        name.removesuffix(".weight")
        for name, scheme in schemes.items()
        if scheme.kind != "nf4" and name.endswith(".weight") and not name.startswith("mtp.")
    ]
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": [*whole, "lm_head"],
        "qwen35_version": VERSION,
        "qwen35_tensors": tensors,
    }


def described(raw: Mapping[str, Any]) -> tuple[Format, dict[str, Scheme]]:
    """Format and schemes that a parsed `config.json` states; "bf16" and {} where it states none.

    Raises:
        ModelError: it states a quantization that this program does not read.
    """
    section = raw.get("quantization_config")
    if section is None:
        return "bf16", {}
    where = "config.json: quantization_config"
    if not isinstance(section, dict):
        raise ModelError(f"{where} is not an object", FETCH_AGAIN)
    method = section.get("quant_method")
    format: Any
    if method == "bitsandbytes" and "qwen35_tensors" in section:
        version, format, tensors = section.get("qwen35_version"), "nf4", section["qwen35_tensors"]
    elif method == "qwen35":
        version, format = section.get("version"), section.get("format")
        tensors = section.get("tensors")
    else:
        raise ModelError(
            f"{where} was written by {str(method)[:40]!r}, "
            "this program reads what its own quantize wrote",
            "use the bfloat16 checkpoint; qwen35 quantize makes it smaller",
        )
    if version != VERSION or isinstance(version, bool):
        raise ModelError(f"{where} has the version {version!r}, known is {VERSION}", FETCH_AGAIN)
    if format not in ("int8", "int4", "nf4"):
        raise ModelError(f"{where} has the unknown format {str(format)[:40]!r}", FETCH_AGAIN)
    if not isinstance(tensors, dict):
        raise ModelError(f"{where} has no table of tensors", FETCH_AGAIN)
    schemes = {}
    for name, text in tensors.items():
        try:
            scheme = Scheme.parse(text if isinstance(text, str) else repr(text))
        except ValueError as error:
            raise ModelError(f"{where}: {name[:80]}: {error}", FETCH_AGAIN) from None
        if scheme.kind not in ("int8", format):
            raise ModelError(f"{where}: {name[:80]} is {scheme} in {format}", FETCH_AGAIN)
        schemes[name] = scheme
    return cast(Format, format), schemes
