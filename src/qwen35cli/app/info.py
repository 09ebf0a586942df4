"""What is known of a checkpoint without its weights: from its config, headers, manifest, notes."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qwen35cli.checkpoint import verified
from qwen35cli.checkpoint.hub import NotInCache, Repo
from qwen35cli.checkpoint.manifest import Manifest, check_manifest
from qwen35cli.checkpoint.names import CONFIG, INDEX, parameter_shapes
from qwen35cli.checkpoint.opened import Checkpoint, file_schemes, open_checkpoint
from qwen35cli.checkpoint.verified import Notes
from qwen35cli.errors import ModelError
from qwen35cli.model.sizes import Shape
from qwen35cli.quant.plan import Format, Plan, Scheme, recipe

from .estimate import CLASSES, FORMATS, class_of
from .inventory import weights
from .items import Places
from .source import DEMO, Source, is_hub_id, resolve

DEFAULT_PLAN: Final[Format] = "int4"


@dataclass(frozen=True, slots=True)
class Part:
    """The tensors of one class, of `estimate.CLASSES`.

    Attributes:
        tensors: in the files, where a quantized matrix has several.
        weights: numbers that the model has there.
        stored: how, as schemes and formats of numbers.
        planned: the same by the recipe, and `planned_nbytes` in a file; none where it is quantized.
    """

    name: str
    tensors: int
    weights: int
    nbytes: int
    stored: tuple[str, ...]
    planned: tuple[str, ...] = ()
    planned_nbytes: int | None = None

    @property
    def label(self) -> str:
        return CLASSES[self.name]


@dataclass(frozen=True, slots=True)
class File:
    """A file of the checkpoint, with the hash that it should have, where one is known."""

    name: str
    nbytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """All of it.

    Attributes:
        manifest: of a folder that was quantized here.
        is_verified: every file had its hash when it was read last, and is unchanged since; None:
            there is no such record.
        sizes: bytes in each format by its recipe, for a bf16 checkpoint.
    """

    source: Source
    checkpoint: Checkpoint
    parts: Sequence[Part]
    files: Sequence[File]
    manifest: Manifest | None
    is_verified: bool | None
    sizes: Mapping[Format, int]

    @property
    def weights(self) -> int:
        return sum(part.weights for part in self.parts)

    @property
    def kind(self) -> str:
        """Where it comes from."""
        if self.source.name == DEMO:
            return "a part of the program"
        if self.manifest is not None:
            return "quantized here"
        return "a folder" if self.source.revision is None else "Hugging Face"


def look(name: str, revision: str | None, places: Places) -> Info:
    """What is known of the checkpoint called `name`, as in `resolve` or as `qwen35 ls` shows it.

    Raises:
        ModelError: there is no such model, or it is not sound.
        Qwen35Error: a folder cannot be read.
    """
    source = find(name, revision, places)
    checkpoint = open_checkpoint(source.folder)
    manifest = check_manifest(source.folder) if checkpoint.format != "bf16" else None
    repo, notes, commit = None, None, source.revision
    if commit is not None and source.folder.parent.name == "snapshots":
        repo = Repo.of(source.name)
        notes = verified.read(repo, commit)
    shapes = parameter_shapes(checkpoint.config)
    plans = [recipe(format) for format in FORMATS] if checkpoint.format == "bf16" else []
    return Info(
        source=source,
        checkpoint=checkpoint,
        parts=parts(checkpoint),
        files=_files(checkpoint, manifest, notes),
        manifest=manifest,
        is_verified=verified.is_verified(repo, commit, notes) if repo and commit else None,
        sizes={plan.format: _nbytes(checkpoint, shapes, plan) for plan in plans},
    )


def find(name: str, revision: str | None, places: Places) -> Source:
    """The checkpoint called so; raises as `look`."""
    try:
        return resolve(name, revision)
    except ModelError as error:
        if revision is not None or (is_hub_id(name) and not isinstance(error, NotInCache)):
            raise
        found = weights(places)
        if not any(name in item.names for item in found.items):
            raise
    item = found.find(name)
    if item.snapshot is None:
        return Source(item.name, item.path, None)
    return Source(item.snapshot.repo, item.path, item.snapshot.commit)


def parts(checkpoint: Checkpoint) -> list[Part]:
    """The tensors by class, in the order of `CLASSES`."""
    shapes = parameter_shapes(checkpoint.config)
    plan = recipe(DEFAULT_PLAN) if checkpoint.format == "bf16" else None
    found = []
    for part in CLASSES:
        stored = {name: each for name, each in checkpoint.tensors.items() if class_of(name) == part}
        own = {name: shape for name, shape in shapes.items() if class_of(name) == part}
        if stored:
            found.append(
                Part(
                    part,
                    len(stored),
                    sum(math.prod(shape) for shape in own.values()),
                    sum(each.nbytes for each in stored.values()),
                    _kinds(_stored_as(checkpoint, name) for name in own),
                    _kinds(_planned_as(checkpoint, own, plan)) if plan else (),
                    _nbytes(checkpoint, own, plan) if plan else None,
                )
            )
    return found


def _stored_as(checkpoint: Checkpoint, name: str) -> str:
    """The scheme of a parameter, or the format of its numbers where it is stored whole."""
    scheme, stored = checkpoint.schemes.get(name), checkpoint.tensors.get(name)
    if stored is not None and (scheme is None or scheme.kind != "nf4"):
        return stored.spelling.lower()
    return "missing" if scheme is None else str(scheme)


def _planned_as(checkpoint: Checkpoint, shapes: Mapping[str, Shape], plan: Plan) -> Iterator[str]:
    """The scheme that `plan` gives to each, or the format that it keeps."""
    for name, scheme in _schemes(checkpoint, shapes, plan).items():
        yield _stored_as(checkpoint, name) if scheme.kind == "keep" else str(scheme)


def _nbytes(checkpoint: Checkpoint, shapes: Mapping[str, Shape], plan: Plan) -> int:
    """Bytes of tensors in the files that quantizing by `plan` would write."""
    return sum(
        checkpoint.tensors[name].nbytes if scheme.kind == "keep" else scheme.nbytes(shapes[name])
        for name, scheme in _schemes(checkpoint, shapes, plan).items()
    )


def _schemes(checkpoint: Checkpoint, shapes: Mapping[str, Shape], plan: Plan) -> dict[str, Scheme]:
    """How a file has those of `shapes` that the checkpoint holds."""
    schemes = file_schemes(checkpoint, plan)
    return {name: schemes[name] for name in shapes if name in schemes}


def _kinds(found: Iterable[str]) -> tuple[str, ...]:
    """Each once, the commonest first."""
    return tuple(kind for kind, _ in Counter(found).most_common())


# -- files -----------------------------------------------------------------------------------------


def _files(checkpoint: Checkpoint, manifest: Manifest | None, notes: Notes | None) -> list[File]:
    """Config, index and weights, and whatever else a hash is known of."""
    folder = checkpoint.folder
    hashes: dict[str, str | None] = {}
    if manifest is not None:
        hashes = {name: entry.sha256 for name, entry in manifest.files.items()}
    elif notes is not None:
        hashes = {name: known.file.published_sha256 for name, known in notes.files.items()}
    names = {CONFIG, *({INDEX} if (folder / INDEX).is_file() else ()), *hashes}
    names |= {path.name for path in folder.glob("*.safetensors")}
    return [
        File(name, (folder / name).stat().st_size, hashes.get(name))
        for name in sorted(names)
        if (folder / name).is_file()
    ]
