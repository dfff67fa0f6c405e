"""What is made to hurt is decoded or refused, in bounded time and memory."""

import resource
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import Kind, ServiceError
from service.pictures.decode import decode
from service.pictures.preprocess import check_size, preprocess
from service.types import Preprocessing
from tests.pictures.hostile import (
    bmp,
    bombs,
    chunk,
    gif,
    grey_png,
    jpeg,
    png,
    scans,
    seeds,
    segment,
)

BOMBS = bombs()
HOW = Preprocessing(8, (8, 8), "bicubic", (0.0,) * 3, (1.0,) * 3)
MOST = 100_000


def looked_at(data, most=MOST):
    """The whole way of a picture, or None where it is refused: nothing else may happen."""
    try:
        image = decode(data, most, "x", lambda size: check_size(size, HOW, most, "x"))
    except ServiceError as error:
        assert error.kind in (Kind.INVALID, Kind.TOO_LARGE)
        assert error.param == "x"
        return None
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= most
    x = preprocess(image, HOW)
    assert (x.shape, x.dtype) == ((3, 8, 8), np.uint8)
    return x


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_in_time_and_memory(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    looked_at(BOMBS[name], 40_000_000)
    assert time.process_time() - began < 6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # kilobytes


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (jpeg(segment(0xEE) * 1000), "1000 segments"),
        (scans(16, 16, 101), "100 scans"),
        (grey_png(chunk(b"vpAg") * 30_000), "small pieces"),
        (gif(1, 1, b"!\xfe\x01a\0" * 20_000), "small pieces"),
        (bmp(4, 2, b"\x04\1\0\0\x04\2\0\1", 8, 1), "run-length"),
    ],
    ids=range(5),
)
def test_what_would_be_slow_is_refused_with_the_reason(data, said):
    with pytest.raises(ServiceError, match=said):
        decode(data, MOST, "x")


def test_scans_are_bounded_by_the_pixels_they_pass_over():
    with pytest.raises(ServiceError, match="at most 20 scans") as caught:
        decode(scans(300, 300, 21), 90_000)
    assert caught.value.kind is Kind.TOO_LARGE
    assert decode(scans(300, 300, 20), 90_000).size == (300, 300)
    assert decode(scans(30, 30, 100), 90_000).size == (30, 30)


def test_scans_cannot_hide():
    """Behind the end of a picture inside a comment, and within comments that are none."""
    head, tail = scans(16, 16, 3)[:-2], scans(16, 16, 120)
    tail = tail[tail.rindex(b"\xff\xc4") :]
    for trick in (segment(0xFE, b"\xff\xd9"), b"\xff\xd7", b"\xff\xff\xff", b"\xff\x01", b"junk"):
        with pytest.raises(ServiceError, match="100 scans"):
            decode(head + trick + tail, MOST)


def test_metadata_that_looks_like_scans_does_not_count():
    assert decode(jpeg(segment(0xE5, b"\xff\xda" * 500)), MOST).size == (16, 16)
    assert decode(jpeg() + b"\xff\xda\0\x02" * 500, MOST).size == (16, 16)  # behind its end


@pytest.mark.parametrize("name", ["gif-script", "svg", "tiff", "empty", "png-empty", "webp-wide"])
def test_seeds_that_are_no_picture_are_refused(name):
    assert looked_at(seeds()[name]) is None


@pytest.mark.parametrize("name", ["png-zip", "jpeg-page"])
def test_what_is_also_something_else_is_the_picture_and_no_more(name):
    assert looked_at(seeds()[name]) is not None


def test_lines_are_refused_before_they_are_resized():
    with pytest.raises(ServiceError, match="too long and thin"):
        decode(png(3000, 1, 1, 0, bytes(376)), MOST, check=lambda s: check_size(s, HOW, MOST))


_SEEDS = sorted(seeds().values())


@settings(max_examples=300)
@given(st.data())
def test_any_change_of_a_picture_is_decoded_or_refused(data):
    held = bytearray(data.draw(st.sampled_from(_SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(len(held) - 1, 0)))
        match data.draw(st.sampled_from(["set", "cut", "insert", "repeat"])):
            case "set":
                held[at : at + 1] = data.draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del held[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                held[at:at] = data.draw(st.binary(max_size=40))
            case _:
                held[at:at] = held[at : at + 30] * data.draw(st.integers(1, 5))
    looked_at(bytes(held))


@given(st.binary(max_size=200))
@example(b"BM")
def test_any_bytes_are_decoded_or_refused(data):
    looked_at(data)
