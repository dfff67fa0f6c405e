"""What is fuzzed: each takes any bytes, and raises only where something is wrong.

Refused is as good as accepted. What may escape a parser is a ServiceError alone.
"""

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from service.errors import Kind, ServiceError
from service.locations import location, origin
from service.pictures.decode import decode
from service.pictures.preprocess import check_size, preprocess
from service.receipts.reading import contradictions, read
from service.rpc import convert
from service.rpc.generated import fcs_pb2 as pb
from service.types import Preprocessing

MOST_PIXELS = 200_000
_HOW = Preprocessing(16, (16, 16), "bicubic", (0.0,) * 3, (1.0,) * 3)
_ALLOWED = frozenset({origin("a.example"), origin("http://b.example:8080")})
_FILE = Path(tempfile.mkdtemp()) / "receipt.json"


def pictures(data: bytes) -> None:
    """Decoded and preprocessed, or refused."""
    with suppress(ServiceError):
        image = decode(
            data, MOST_PIXELS, "x", lambda size: check_size(size, _HOW, MOST_PIXELS, "x")
        )
        assert image.mode == "RGB", image.mode
        assert 0 < image.width * image.height <= MOST_PIXELS, image.size
        x = preprocess(image, _HOW)
        assert x.shape == (3, 16, 16), x.shape
        assert x.dtype == np.uint8, x.dtype


def messages(data: bytes) -> None:
    """gRPC's: the first byte says which."""
    which, rest = (data[:1] or b"\0")[0] % 3, data[1:]
    with suppress(ServiceError):
        if which == 0:
            convert.embed_request(convert.parse(pb.EmbedRequest, rest), 1.0, 600.0)
        elif which == 1:
            convert.classify_request(convert.parse(pb.ClassifyRequest, rest), 1.0, 600.0)
        else:
            convert.answer_request(convert.parse(pb.AnswerRequest, rest), None, 600.0)


def receipts(data: bytes) -> None:
    """A saved file."""
    _FILE.write_bytes(data)
    with suppress(ServiceError):
        contradictions(read(_FILE))


def urls(data: bytes) -> None:
    """A place to fetch from."""
    try:
        found = location(data.decode("utf-8", "replace"), _ALLOWED, "inputs[0]")
    except ServiceError as error:
        assert error.kind is Kind.INVALID
        return
    assert found.origin in _ALLOWED
    assert found.target.startswith("/")
    assert not set(found.target) & set(" \r\n\t")
