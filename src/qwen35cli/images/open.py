"""Picture files and bytes to upright RGB pictures, with every limit checked before decoding."""

import io
import re
import shlex
import stat
import warnings
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin

from qwen35cli.errors import DoesNotFitError, UsageError

from .resize import MAX_PIXELS, MAX_SIDE

MAX_BYTES = 50_000_000

# Named one by one: Pillow would otherwise try forty more decoders, one of which runs Ghostscript.
# The import registers WEBP without loading all of them.
FORMATS = ("JPEG", "PNG", WebPImagePlugin.WebPImageFile.format, "GIF", "BMP")

# Pillow refuses a PNG with a comment or a colour profile that unfolds to more than a megabyte, as
# the source of a diagram does. What all comments may take together stays its limit.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# Pillow brings the samples of a PNG to 8 bits, but not the one that is declared transparent.
_PNG_SCALES: dict[object, float] = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # by raw mode

_FORMATS_HINT = "JPEG, PNG, WEBP, GIF and BMP are read; to convert: magick FILE picture.png"
_SHRINK_HINT = "scale it down first: magick FILE -resize 4096x4096 picture.jpg"

# What else people hand in, by its first bytes.
_OTHER_FORMATS = {
    "a PDF": rb"%PDF",
    "PostScript": rb"%!PS",
    "a TIFF": rb"II\*\0|MM\0\*",
    "an AVIF": rb".{4}ftypavi[fs]",
    "a HEIC": rb".{4}ftyp(hei|mif|msf)",
    "an SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!--.{0,400}?-->\s*|<!DOCTYPE[^>]*>\s*)*<svg",
    "a web page": rb"(?i)\s*<(!doctype )?html",
}


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """A decoded picture: upright, RGB, what was transparent now white."""

    name: str  # as it was given, safe to print
    picture: Image.Image
    note: str | None  # what a person should know about how it was read
    data: bytes = field(repr=False)  # the file as it was given

    @property
    def original_size(self) -> tuple[int, int]:
        """Width and height in pixels, upright, before any resize."""
        return self.picture.size


def open_image(path: Path | str, given: str | None = None) -> OpenedImage:
    """Read and decode a picture file, which `given` calls as the user did.

    Raises:
        UsageError: not an existing regular file, or for the reasons of `decode_image`.
        DoesNotFitError: see `decode_image`.
    """
    given, path = str(path) if given is None else given, Path(path)
    name = printable(given)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{name} is a folder, not a picture", "give one file inside it")
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{name} is not a regular file", f'cat {shlex.quote(name)} | qwen35 ask -i - "…"'
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"no image at {name}", nearest(path, given)) from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
    except ValueError:  # a zero byte in the name
        raise UsageError(f"no image at {name}") from None
    return decode_image(data, given)


def decode_image(data: bytes, name: str) -> OpenedImage:
    """Decode the bytes of a JPEG, PNG, WEBP, GIF or BMP, told by content and not by name.

    Raises:
        UsageError: empty, over a limit, of another format, or damaged.
        DoesNotFitError: not enough memory to decode.
    """
    name = printable(name)
    if not data:
        raise UsageError(f"{name} is empty (0 bytes)", "give a JPEG, PNG, WEBP, GIF or BMP picture")
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"{name} has more than {MAX_BYTES // 10**6} MB, the largest that is read", _SHRINK_HINT
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own remarks; our limits are stricter
            return _decode(data, name)
    except UsageError:
        raise
    except MemoryError as error:
        raise DoesNotFitError(f"not enough memory to decode {name}", _SHRINK_HINT) from error
    except Image.DecompressionBombError:
        raise _too_large(name, "has hundreds of megapixels") from None
    except UnidentifiedImageError:
        raise UsageError(_unreadable(data, name), _FORMATS_HINT) from None
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        reason = printable(str(error)) or type(error).__name__
        raise UsageError(
            f"{name} is damaged: {reason}", "open it in a picture viewer and save it again"
        ) from error


def _decode(data: bytes, name: str) -> OpenedImage:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    notes = []
    # A JPEG's further pictures (MPO) are thumbnails and depth maps, not an animation.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append("first frame of an animation")
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _too_large(name, f"has {width:,} × {height:,} pixels")
    _scale_transparent_colour(image)
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # the picture itself is sound, only its EXIF block is not
        notes.append("damaged EXIF ignored: shown as stored")
    return OpenedImage(name, _to_rgb(image), "; ".join(notes) or None, data)


def _scale_transparent_colour(image: ImageFile.ImageFile) -> None:
    """Bring the colour that a PNG declares transparent to the 8 bits of its samples."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None or not image.tile:
        return
    if scale := _PNG_SCALES.get(image.tile[0].args):
        image.info["transparency"] = (
            tuple(int(sample * scale) for sample in colour)
            if isinstance(colour, tuple)
            else int(colour * scale)
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB in 8 bits, composited on white where transparent; colours under alpha 0 stay hidden."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling, and forgets the transparent grey.
        grey = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
        if (hidden := image.info.get("transparency")) is not None:
            seen = [255 * (value != hidden) for value in range(1 << 16)]
            white = Image.new("L", image.size, "white")
            grey = Image.composite(grey, white, image.convert("I").point(seen, "L"))
        return grey.convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(layer, mask=layer)
    return white


def _too_large(name: str, finding: str) -> UsageError:
    return UsageError(
        f"{name} {finding}; at most {MAX_SIDE:,} a side and "
        f"{MAX_PIXELS // 10**6} megapixels are decoded",
        _SHRINK_HINT,
    )


def _unreadable(data: bytes, name: str) -> str:
    for kind, opening in _OTHER_FORMATS.items():
        if re.match(opening, data[:1024], re.DOTALL):
            return f"{name} is {kind}, which is not read"
    return f"{name} holds no readable picture ({len(data):,} bytes)"


def nearest(path: Path, given: str) -> str:
    """A hint with the name most like the missing `path` in its folder, or "" for none.

    The name is written as `given`, the user's own spelling, wherever that ends in the file's name.
    """
    if not path.parent.is_dir():
        return f"there is no folder {printable(str(path.parent))}"
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), 5_000)]
    except OSError:
        return ""
    others = (name for name in names if name.isprintable() and name != path.name)  # a dead link
    like = get_close_matches(path.name, others, n=1)
    if not like:
        return ""
    written = given.rstrip("/")
    if not written.endswith(path.name):
        return f"did you mean {printable(str(path.with_name(like[0])))}?"
    return f"did you mean {printable(written.removesuffix(path.name))}{like[0]}?"


def printable(text: str) -> str:
    """`text` on one line, free of controls, bidi marks and the surrogates of undecodable bytes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
