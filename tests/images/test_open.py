"""Picture files: everything that may be read, and everything that must be refused."""

import io
import os
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from qwen35cli.errors import DoesNotFitError, UsageError
from qwen35cli.images import open as subject
from qwen35cli.images.open import decode_image, open_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def encoded(picture, format="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size, depth, colours, body, more=b""):
    """A PNG of packed lines, with chunks that Pillow does not write."""
    header = struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, 0)
    ihdr, idat, iend = chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + ihdr + more + idat + iend


def png_bomb(width, height):
    """A few kilobytes that unfold to `width` x `height` grey pixels."""
    packer = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    body = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    return png((width, height), 1, 0, body)


def refusal(call, *arguments):
    """The refusal, after checking what holds for every one of them."""
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    error = caught.value
    assert error.exit_code == 2
    assert error.message.isprintable()  # hence one line, no controls, no surrogates
    assert error.hint.isprintable()
    return error


# What is read


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_each_format_is_told_by_content_not_by_name(tmp_path, format):
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(Image.new("RGB", (30, 20), RED), format))
    image = open_image(path)
    assert (image.picture.mode, image.original_size, image.note) == ("RGB", (30, 20), None)
    assert image.name == str(path)
    assert all(abs(a - b) <= 2 for a, b in zip(image.picture.getpixel((9, 9)), RED, strict=True))
    assert open_image(str(path)).picture.tobytes() == image.picture.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, format):
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(RED, (0, 0, 24, 16))  # top left
    upright.paste(BLUE, (24, 16, 48, 32))  # bottom right
    # Inverses of the EXIF turns, written out: what the camera stored.
    turn = Image.Transpose
    stored = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    picture = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if format == "PNG" else {"quality": 95}
    image = decode_image(encoded(picture, format, exif=exif, **options), "turned")
    assert image.original_size == (48, 32)
    for place, colour in {(6, 6): RED, (42, 26): BLUE, (42, 6): WHITE, (6, 26): WHITE}.items():
        found = image.picture.getpixel(place)
        assert max(abs(a - b) for a, b in zip(found, colour, strict=True)) < 40, place


@pytest.mark.parametrize("cut", [1, 7, 9, 13])
def test_damaged_exif_does_not_cost_the_picture(cut):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (8, 4), RED), exif=exif.tobytes()[:cut])
    image = decode_image(data, "x")
    assert image.original_size == (8, 4)
    assert image.picture.getpixel((1, 1)) == RED


def with_alpha(mode):
    """Left half: a colour under alpha 0. Right half: opaque."""
    picture = Image.new("RGBA", (8, 4), (255, 0, 0, 0))
    picture.paste((*BLUE, 255), (4, 0, 8, 4))
    if mode == "P":
        picture = Image.new("P", (8, 4), 0)
        picture.putpalette([*RED, *BLUE])
        picture.paste(1, (4, 0, 8, 4))
        picture.info["transparency"] = 0
    return picture if mode == "P" else picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF")],
)
def test_what_is_transparent_becomes_white(mode, format):
    options = {"lossless": True} if format == "WEBP" else {}
    image = decode_image(encoded(with_alpha(mode), format, **options), "x").picture
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == WHITE
    assert image.getpixel((6, 1)) != WHITE


@pytest.mark.parametrize("mode", ["PA", "LA", "RGBA"])
def test_every_mode_with_alpha_is_composited_on_white(mode):
    image = subject._to_rgb(with_alpha(mode))
    assert (image.mode, image.getpixel((1, 1))) == ("RGB", WHITE)
    assert image.getpixel((6, 1)) != WHITE


def test_half_transparent_is_mixed_with_white():
    data = encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))
    assert decode_image(data, "x").picture.getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize(
    ("mode", "options"), [("RGB", {"transparency": RED}), ("L", {"transparency": 76})]
)
def test_a_colour_declared_transparent_becomes_white(mode, options):
    picture = Image.new("RGB", (4, 4), RED).convert(mode)
    assert decode_image(encoded(picture, **options), "x").picture.getpixel((1, 1)) == WHITE


@pytest.mark.parametrize(
    ("depth", "samples", "hidden", "seen"),
    [
        (1, 0b01_000000, [1], [(0, 0, 0), WHITE]),
        (2, 0b0001_0000, [1], [(0, 0, 0), WHITE]),
        (4, 0x01, [1], [(0, 0, 0), WHITE]),
        (16, 0x0000_0001, [0], [WHITE, (0, 0, 0)]),  # to the last bit
        (16, 0x8000_4000, [0x8000], [WHITE, (64,) * 3]),
        (16, 0x8000_0000_0000_4000_0000_0000, [0x8000, 0, 0], [WHITE, (64, 0, 0)]),
        (16, 0x0000_0000_0000_4000_0000_0000, [0, 0, 0], [WHITE, (64, 0, 0)]),
    ],
)
def test_a_transparent_colour_has_the_depth_of_its_picture(depth, samples, hidden, seen):
    width = max(1, 2 * depth * len(hidden) // 8)
    body = zlib.compress(b"\0" + samples.to_bytes(width))
    colour = chunk(b"tRNS", struct.pack(f">{len(hidden)}H", *hidden))
    data = png((2, 1), depth, 2 if len(hidden) == 3 else 0, body, colour)
    picture = decode_image(data, "x").picture
    assert [picture.getpixel((x, 0)) for x in range(2)] == seen


def test_a_transparent_colour_of_no_picture_is_damage():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", bytes(6)) + chunk(b"IEND", b"")
    with pytest.raises(UsageError, match="x is damaged: cannot load this image"):
        decode_image(data, "x")


def test_sixteen_bits_are_scaled_not_clipped():
    samples = [0, 128, 129, 257, 1_000, 32_768, 65_406, 65_407, 65_535]
    picture = Image.frombytes("I;16", (len(samples), 1), struct.pack(f"<{len(samples)}H", *samples))
    image = decode_image(encoded(picture), "x").picture
    found = [image.getpixel((x, 0)) for x in range(len(samples))]
    assert found == [(round(v / 257),) * 3 for v in samples]


def test_one_bit_grey_and_palette():
    bits = Image.new("1", (4, 4), 1)
    bits.putpixel((0, 0), 0)
    image = decode_image(encoded(bits), "x").picture
    assert (image.getpixel((0, 0)), image.getpixel((1, 1))) == ((0, 0, 0), WHITE)
    grey = decode_image(encoded(Image.new("L", (4, 4), 77)), "x").picture
    assert grey.getpixel((0, 0)) == (77, 77, 77)
    palette = Image.new("RGB", (4, 4), GREEN).quantize()
    assert decode_image(encoded(palette), "x").picture.getpixel((0, 0)) == GREEN


def test_cmyk():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = decode_image(data, "x").picture.getpixel((8, 8))
    assert red > 230 > 40 > max(green, blue)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_and_it_is_said(format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    image = decode_image(data, "x")
    assert image.note == "first frame of an animation"
    assert image.picture.getpixel((8, 8)) == RED


def test_the_second_picture_in_a_phones_jpeg_is_passed_over():
    photo, depth = Image.new("RGB", (64, 48), RED), Image.new("L", (16, 12), 99).convert("RGB")
    data = encoded(photo, "MPO", save_all=True, append_images=[depth])
    image = decode_image(data, "photo.jpg")
    assert (image.original_size, image.note) == ((64, 48), None)
    red, green, blue = image.picture.getpixel((8, 8))
    assert red > 250 > 5 > max(green, blue)


@pytest.mark.parametrize("size", [(1, 1), (1, 5_000), (20_000, 1)])
def test_tiny_and_thin_pictures_are_decoded(size):
    assert decode_image(encoded(Image.new("L", size)), "x").original_size == size


# What is refused


@pytest.mark.parametrize(
    ("size", "finding"),
    [
        ((20_001, 8), "20,001 × 8"),
        ((10_000, 5_001), "10,000 × 5,001"),
        ((13_000, 13_000), "13,000 × 13,000"),  # Pillow only warns
        ((20_000, 20_000), "hundreds of megapixels"),  # Pillow refuses
    ],
)
def test_bombs_are_refused_before_decoding(monkeypatch, size, finding):
    data = png_bomb(*size)
    assert len(data) < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    error = refusal(decode_image, data, "bomb.png")
    assert "bomb.png" in error.message
    assert finding in error.message
    assert "50 megapixels" in error.message


def test_fifty_megapixels_are_still_read():
    assert decode_image(png_bomb(10_000, 5_000), "x").original_size == (10_000, 5_000)


def test_a_webp_canvas_far_beyond_its_frames_is_refused():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert data[12:16] == b"VP8X"
    data[24:30] = (12_000).to_bytes(3, "little") * 2
    assert "12,001 × 12,001" in refusal(decode_image, bytes(data), "x").message


@pytest.mark.parametrize("size", [3_000_000, 80_000_000])
@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_png_with_much_beside_its_picture_is_read_to_a_limit(kind, size):
    data = encoded(Image.new("RGB", (8, 8), RED))
    beside = chunk(kind, b"name\0\0" + zlib.compress(bytes(size)))
    data = data[:33] + beside + data[33:]
    if size < 64_000_000:
        assert decode_image(data, "x").picture.getpixel((0, 0)) == RED
    else:
        assert "too large" in refusal(decode_image, data, "x").message


def test_too_many_bytes_are_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.truncate(subject.MAX_BYTES + 1)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert "50 MB" in refusal(open_image, path).message


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_truncated_file_is_an_error(format):
    picture = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    data = encoded(picture, format)
    for share in (0.3, 0.6, 0.9):
        error = refusal(decode_image, data[: int(len(data) * share)], "cut.jpg")
        assert error.message.startswith("cut.jpg ")
        assert error.hint


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damaged_bytes_give_a_picture_or_a_refusal(format):
    rng = random.Random(1)
    picture = Image.frombytes("RGB", (24, 24), rng.randbytes(24 * 24 * 3))
    whole = encoded(picture, format)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        try:
            assert decode_image(bytes(data), "x").picture.mode == "RGB"
        except UsageError as error:
            assert error.message.isprintable()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"%PDF-1.7\n", "a PDF"),
        (encoded(Image.new("RGB", (4, 4)), "TIFF"), "a TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "no readable picture"),
        (b"hello", "no readable picture (5 bytes)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_formats_are_refused_under_any_name(tmp_path, data, kind):
    path = tmp_path / "spoofed.png"
    path.write_bytes(data)
    error = refusal(open_image, path)
    assert kind in error.message
    assert "JPEG, PNG, WEBP, GIF and BMP" in error.hint


def test_running_out_of_memory_names_the_picture(monkeypatch):
    def exhausted(_):
        raise MemoryError

    data = encoded(Image.new("RGB", (4, 4)))
    monkeypatch.setattr(Image.Image, "load", exhausted)
    with pytest.raises(DoesNotFitError, match=r"huge\.png"):
        decode_image(data, "huge.png")


# Names


def test_a_missing_file_gives_the_nearest_name(tmp_path, monkeypatch):
    (tmp_path / "screenshot_12.png").touch()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    error = refusal(open_image, "./screenshot-12.png")
    assert error.message == "no image at ./screenshot-12.png"
    assert error.hint == "did you mean ./screenshot_12.png?"
    assert refusal(open_image, "screenshot-12.png").hint == "did you mean screenshot_12.png?"
    assert refusal(open_image, "./zzz").hint == ""
    assert refusal(open_image, "nowhere/a.png").hint == "there is no folder nowhere"
    assert refusal(open_image, "notes.txt/a.png").hint == "there is no folder notes.txt"


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(open_image, tmp_path / "pipe").message
    assert "is not a regular file" in refusal(open_image, "/dev/zero").message
    assert "is a folder" in refusal(open_image, tmp_path).message


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    assert "empty (0 bytes)" in refusal(open_image, tmp_path / "empty.png").message


def test_a_link_to_a_picture_is_followed_and_a_dead_one_is_missing(tmp_path):
    (tmp_path / "real.png").write_bytes(encoded(Image.new("RGB", (3, 3))))
    (tmp_path / "link.png").symlink_to("real.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert open_image(tmp_path / "link.png").original_size == (3, 3)
    assert "loop.png" in refusal(open_image, tmp_path / "loop.png").message
    (tmp_path / "dead.png").symlink_to("nowhere.png")
    dead = refusal(open_image, tmp_path / "dead.png")
    assert dead.message.startswith("no image at")
    assert dead.hint.endswith("/real.png?")


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5_000, "\x1b[2J\n.png", "\u202egnp.exe", ""])
def test_impossible_and_hostile_names_are_refused_on_one_line(name):
    refusal(open_image, name)
    refusal(decode_image, b"", name)


def test_names_that_are_not_utf8_are_read_and_reported(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    refusal(open_image, path)
    path.write_bytes(encoded(Image.new("RGB", (3, 3))))
    image = open_image(path)
    assert image.original_size == (3, 3)
    assert image.name.endswith("caf\N{REPLACEMENT CHARACTER}.png")
    refusal(open_image, path.with_name("cafe.png"))  # the nearest name cannot be printed
