import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service.errors import Kind, ServiceError
from service.pictures.decode import decode
from tests.photos import locate

LIMIT = 40_000_000


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient(mode="RGB", size=(40, 30)):
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    planes = (255 * rows / height, 255 * columns / width, 255 - 255 * columns / width)
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8)).convert(mode)


def png(width, height, depth, colour, rows, *chunks):
    """A PNG by hand: colour 0 is grey, 2 is RGB; `rows` with their filter bytes."""

    def chunk(name, body):
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_header(width, height):
    """A PNG that declares a size and holds next to nothing."""
    return png(width, height, 8, 2, b"")


def refused(data, limit=LIMIT):
    with pytest.raises(ServiceError) as caught:
        decode(data, limit, "inputs[0]")
    assert caught.value.param == "inputs[0]"
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_lossless_formats_give_the_same_pixels(kind):
    image = gradient("P" if kind == "GIF" else "RGB")
    found = decode(encoded(image, kind), LIMIT)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "MPO"])
def test_lossy_formats_come_close(kind):
    image = Image.open(locate("chelsea.png")).convert("RGB")
    found = decode(encoded(image, kind, quality=90), LIMIT)
    assert found.size == image.size
    assert np.abs(np.asarray(found, int) - np.asarray(image, int)).mean() < 6


def test_alpha_is_composed_over_white():
    layer = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    layer.putpixel((0, 0), (255, 0, 0, 128))
    found = np.asarray(decode(encoded(layer, "PNG"), LIMIT))
    assert tuple(found[1, 1]) == (255, 255, 255)
    assert tuple(found[0, 0]) == (255, 127, 127)


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    found = np.asarray(decode(encoded(image, "PNG", transparency=0), LIMIT))
    assert tuple(found[2, 2]) == (255, 255, 255)
    assert tuple(found[0, 0]) == (200, 100, 50)


@pytest.mark.parametrize(
    ("depth", "clear", "row"),
    [(2, 2, b"\x80"), (4, 9, b"\x90"), (16, 40_000, struct.pack(">HH", 40_000, 0))],
)
def test_a_transparent_grey_is_white_at_every_bit_depth(depth, clear, row):
    """One row: the transparent grey, then black."""
    data = png(2, 1, depth, 0, b"\0" + row, (b"tRNS", struct.pack(">H", clear)))
    found = np.asarray(decode(data, LIMIT))
    assert tuple(found[0, 0]) == (255, 255, 255)
    assert tuple(found[0, 1]) == (0, 0, 0)


def test_unreadable_orientation_is_no_reason_to_refuse():
    data = png(1, 1, 8, 0, b"\0\x80", (b"eXIf", b"junk"))
    assert tuple(np.asarray(decode(data, LIMIT))[0, 0]) == (128, 128, 128)


def test_a_further_check_sees_the_declared_size_before_decoding():
    seen = []
    with pytest.raises(ServiceError):
        decode(png_header(300, 200), LIMIT, check=seen.append)
    assert seen == [(300, 200)]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA"])
def test_every_png_mode_becomes_rgb(mode):
    assert decode(encoded(gradient(mode), "PNG"), LIMIT).mode == "RGB"


def test_cmyk_jpeg_becomes_rgb():
    image = Image.new("RGB", (32, 32), (200, 30, 60))
    found = np.asarray(decode(encoded(image.convert("CMYK"), "JPEG", quality=95), LIMIT), int)
    assert np.abs(found - np.array([200, 30, 60])).max() < 12


def test_sixteen_bit_greyscale_is_scaled_not_clipped():
    wide = np.array([[0, 257, 128 * 257], [65535, 1000, 30000]], np.uint16)
    found = np.asarray(decode(encoded(Image.fromarray(wide), "PNG"), LIMIT))
    np.testing.assert_array_equal(found[..., 0], np.rint(wide / 257.0).astype(np.uint8))


def test_exif_orientation_is_applied():
    image = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned; shown rotated by 270 degrees
    found = decode(encoded(image, "JPEG", exif=exif, quality=95), LIMIT)
    assert found.size == (30, 40)
    upright = np.asarray(image.rotate(-90, expand=True), int)
    assert np.abs(np.asarray(found, int) - upright).mean() < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind):
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    found = np.asarray(decode(data, LIMIT), int)
    assert np.abs(found - np.array([255, 0, 0])).max() < 5


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='x'/>", bytes(1000)], ids=range(5)
)
def test_what_is_no_picture_is_refused_with_what_is_allowed(data):
    error = refused(data)
    assert error.kind is Kind.INVALID
    assert "PNG, JPEG, WebP" in error.message


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA"])
def test_formats_outside_the_list_stay_closed(kind):
    assert refused(encoded(gradient(), kind)).kind is Kind.INVALID


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_pictures_are_refused(kind, share):
    data = encoded(Image.open(locate("coffee.png")).convert("RGB").resize((200, 150)), kind)
    assert refused(data[: int(len(data) * share)]).kind is Kind.INVALID


def test_a_declared_size_over_the_limit_is_refused_before_decoding():
    error = refused(png_header(50_000, 50_000))
    assert error.kind is Kind.TOO_LARGE
    assert "50000x50000" in error.message
    assert "40000000" in error.message


def test_the_pixel_limit_counts_exactly():
    data = encoded(gradient(size=(40, 30)), "PNG")
    assert decode(data, 1200).size == (40, 30)
    assert refused(data, 1199).kind is Kind.TOO_LARGE


def test_refusing_huge_declarations_leaves_no_memory_behind():
    import resource

    webp = encoded(gradient(), "WEBP", lossless=True)
    refused(png_header(50_000, 50_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        refused(png_header(50_000, 50_000))
        refused(webp, limit=10)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 20_000  # kilobytes
