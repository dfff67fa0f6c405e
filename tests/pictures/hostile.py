"""Pictures made to hurt, and small honest ones to begin from: all made here, none of others.

`seeds()` is the corpus that fuzzing starts with; `bombs()` are files that once cost seconds,
minutes or gigabytes, or might.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

MIB = 1 << 20
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name, body=b"", check=None):
    check = zlib.crc32(name + body) if check is None else check
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)


def png(width, height, depth, colour, rows, *before, after=b""):
    """By hand: colour 0 is grey, 2 RGB, 3 a palette; `rows` with their filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows)), after)
    return SIGNATURE + b"".join(parts) + chunk(b"IEND")


def grey_png(*before, after=b""):
    return png(1, 1, 8, 0, b"\0\x80", *before, after=after)


def segment(marker, body=b""):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(*segments):
    """A small one, with more segments after its start."""
    plain = encoded(Image.new("RGB", (16, 16), "red"), "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def scans(width, height, count):
    """A progressive JPEG, 4:4:4, of empty refining scans: a few bytes each, a pass over all."""
    blocks = -(-width // 8) * -(-height // 8)

    def bits(text):
        text += "1" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")

    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 17, 0, 2, 17, 0, 3, 17, 0])
    one = bytes([1] + [0] * 15)  # a table with one code, of one bit
    empty = bits("0111111111111110"[:15] * -(-blocks // 32767))
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, frame),
            segment(0xC4, b"\0" + one + b"\0"),
            segment(0xC4, b"\x10" + one + b"\xe0"),
            segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 1])) + bits("0" * (blocks * 3)),
            segment(0xDA, bytes([1, 1, 0, 1, 63, 1])) + empty,
            (segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10])) + empty) * (count - 2),
            b"\xff\xd9",
        ]
    )


def bmp(width, height, body, bits=8, compression=0):
    palette = b"".join(bytes([i, 255 - i, 7, 0]) for i in range(1 << bits))
    begin = 54 + len(palette)
    head = struct.pack("<IHHI", begin + len(body), 0, 0, begin)
    sizes = (40, width, height, 1, bits, compression, len(body), 0, 0, 1 << bits, 0)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", *sizes) + palette + body


def gif(width, height, *blocks, frame=None):
    """A screen, blocks, and one frame that may be larger than the screen."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)
    place = b"," + struct.pack("<HHHHB", 0, 0, *(frame or (width, height)), 0)
    return screen + b"".join(blocks) + place + b"\x02\x02\x4c\x01\0;"


def exif(entries, size):
    """Entries that all point at the same bytes."""
    where = 8 + 2 + 12 * entries + 4
    head = b"II*\0" + struct.pack("<IH", 8, entries)
    told = b"".join(struct.pack("<HHII", i + 1, 7, size, where) for i in range(entries))
    return head + told + bytes(4) + bytes(size)


def wide_webp():
    """A canvas of two gigapixels with one pixel in it."""
    inner = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    three = [struct.pack("<I", n)[:3] for n in (65534, 30000)]
    head = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"".join(three)
    animation = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    frame = b"ANMF" + struct.pack("<I", 16 + len(inner)) + bytes(16) + inner
    body = b"WEBP" + head + animation + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bombs():
    """Name -> file; none is over 16 MiB."""
    text = b"k\0\0" + zlib.compress(bytes(MIB - 10), 9)
    exif_parts = exif(2000, MIB)
    exif_parts = [exif_parts[i : i + 65000] for i in range(0, len(exif_parts), 65000)]
    return {
        "JPEG of 4 million segments": jpeg(segment(0xEE) * (4 * MIB - 1000)),
        "JPEG of growing EXIF": jpeg(
            segment(0xE1, b"Exif\0\0" + bytes(65000)) * 100 + segment(0xE1, b"Exif\0\0x") * 900_000
        ),
        "JPEG of EXIF that overlaps": jpeg(
            *(segment(0xE1, b"Exif\0\0" + part) for part in exif_parts)
        ),
        "JPEG of 10,000 scans": scans(6300, 6300, 10_000),
        "JPEG of 100 large scans": scans(6300, 6300, 100),
        "PNG of a million chunks": grey_png(chunk(b"vpAg") * (MIB + 300_000)),
        "PNG of a million empty parts": png(
            4000, 4000, 8, 0, bytes(4001 * 4000), chunk(b"IDAT") * MIB
        ),
        "PNG of a gigabyte of text": grey_png(
            chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1000 * MIB), 1)[: 8 * MIB])
        ),
        "PNG of a thousand texts": grey_png(chunk(b"zTXt", text) * 1000),
        "PNG of a thousand texts behind": grey_png(after=chunk(b"zTXt", text) * 1000),
        "PNG of a profile": grey_png(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(100 * MIB), 9))),
        "PNG of EXIF that overlaps": grey_png(chunk(b"eXIf", exif(2000, MIB))),
        "GIF of 3 million comments": gif(1, 1, b"!\xfe\x01a\0" * 3_000_000),
        "GIF whose frame outgrows its screen": gif(1, 1, frame=(60_000, 60_000)),
        "BMP of single runs": bmp(6300, 6300, b"\x01\x07" * (8 * MIB - 1000), 8, 1),
        "BMP of ends of lines": bmp(6300, 6300, b"\x01\x07\0\0" * 6300, 8, 1),
        "WebP of two gigapixels": wide_webp(),
    }


def seeds():
    """Name -> a small picture of every format, mode and kind of metadata; honest, odd or broken."""
    ramp = np.add.outer(np.arange(12), np.arange(16)).astype(np.uint8) * 9
    image = Image.fromarray(np.stack([ramp, 255 - ramp, ramp.T.reshape(12, 16)], -1))
    clear = image.copy()
    clear.putalpha(Image.fromarray(ramp))
    frames = {"save_all": True, "append_images": [Image.new("RGB", (16, 12), "blue")]}
    turned = Image.Exif()
    turned[0x0112] = 6
    found = {
        f"png-{mode}": encoded(clear.convert(mode), "PNG")
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA")
    }
    found |= {
        "png-16": encoded(Image.fromarray(ramp.astype(np.uint16) * 257), "PNG"),
        "png-apng": encoded(image, "PNG", **frames),
        "png-exif": encoded(image, "PNG", exif=turned),
        "png-text": grey_png(
            chunk(b"tEXt", b"a\0b"), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b"))
        ),
        "png-check": grey_png(chunk(b"tEXt", b"a\0b", check=1)),
        "png-palette": png(
            2, 1, 8, 3, b"\0\0\xff", chunk(b"PLTE", b"\1\2\3"), chunk(b"tRNS", b"\0")
        ),
        "png-empty": png(0, 5, 8, 0, b""),
        "png-line": png(3000, 1, 1, 0, bytes(1 + 375)),
        "jpeg": encoded(image, "JPEG"),
        "jpeg-progressive": encoded(image, "JPEG", progressive=True),
        "jpeg-grey": encoded(image.convert("L"), "JPEG"),
        "jpeg-cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "jpeg-exif": encoded(image, "JPEG", exif=turned, comment=b"hello"),
        "jpeg-profile": encoded(image, "JPEG", icc_profile=bytes(200)),
        "jpeg-scans": scans(16, 16, 12),
        "mpo": encoded(image, "MPO", **frames),
        "webp": encoded(image, "WEBP"),
        "webp-lossless": encoded(clear, "WEBP", lossless=True),
        "webp-animated": encoded(image, "WEBP", exif=turned, **frames),
        "webp-wide": wide_webp(),
        "gif": encoded(image, "GIF"),
        "gif-animated": encoded(image, "GIF", **frames),
        "gif-outgrown": gif(2, 2, b"!\xfe\x01a\0", frame=(5, 4)),
        "bmp": encoded(image, "BMP"),
        "bmp-palette": bmp(4, 2, bytes(range(8))),
        "bmp-runs": bmp(4, 2, b"\x04\1\0\0\x04\2\0\1", 8, 1),
        "gif-script": b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)//;",
        "png-zip": grey_png() + b"PK\3\4" + bytes(30) + b"PK\5\6" + bytes(18),
        "jpeg-page": jpeg(segment(0xFE, b"<script>alert(1)</script>")) + b"<html>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "tiff": b"II*\0\x08\0\0\0\0\0",
        "empty": b"",
    }
    return found
