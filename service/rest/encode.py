"""Results -> the JSON bodies of `service.rest.schemas` and `service.rest.labels`."""

import base64
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson

from service.forms import certificate_form
from service.types import ClassifyResult, EmbedResult


def embeddings(result: EmbedResult, encoding_format: str) -> bytes:
    """The body of `POST /embed`, one line of JSON.

    Args:
        result: of the core.
        encoding_format: "base64" of little-endian float32, or "float".
    """
    data = []
    for index, item in enumerate(result.data):
        certificate = None
        if item.certificate is not None:
            certificate = certificate_form(item.certificate)
        embedding: Any = np.frombuffer(item.values, "<f4")
        if encoding_format == "base64":
            embedding = base64.b64encode(item.values).decode()
        receipt = None if item.receipt is None else orjson.Fragment(item.receipt)
        data.append(
            {
                "index": index,
                "embedding": embedding,
                "certificate": certificate,
                "receipt": receipt,
            }
        )
    body = {
        "model": result.model,
        "revision": result.revision,
        "data": data,
        "timing": asdict(result.timing),
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def labels(result: ClassifyResult) -> bytes:
    """The body of `POST /classify`, one line of JSON."""
    body = asdict(result)
    for index, (item, found) in enumerate(zip(body["data"], result.data, strict=True)):
        item |= {"index": index, "certificate": certificate_form(found.certificate)}
    return orjson.dumps(body)
