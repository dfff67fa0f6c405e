"""The receipt of one picture's certificate: its form, and how it is made, signed and checked."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from service import __version__, types
from service.forms import Certificate, Count, Form, Pixels, Printable, certificate_form
from service.receipts.canonical import canonical
from service.receipts.signing import Signer, matches
from service.types import DtypeName, Embedding, MemoryFormat, ModelInfo, Resample

FORMAT: Literal["fcs-receipt/1"] = "fcs-receipt/1"
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Triple = tuple[float, float, float]


class Preprocessing(Form):
    """`service.types.Preprocessing`: how the picture became x."""

    resize: Pixels | tuple[Pixels, Pixels] | None
    crop: tuple[Pixels, Pixels] | None
    resample: Resample
    mean: Triple
    std: Triple

    @model_validator(mode="after")
    def _ends_in_a_fixed_size(self) -> Self:
        self.value().size  # noqa: B018  # raises
        return self

    def value(self) -> types.Preprocessing:
        """The frozen value."""
        return types.Preprocessing(self.resize, self.crop, self.resample, self.mean, self.std)


class Model(Form):
    """What computed the features; all of it but `name` and `platform` decides the revision."""

    # Of a package: never a path or a hub id, which a stranger's receipt could choose.
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=200)
    revision: Digest
    dimensions: Count
    device: Literal["cpu", "cuda"]
    dtype: DtypeName
    memory_format: MemoryFormat
    batch_size: int = Field(ge=1, le=1024)
    threads: int = Field(ge=1, le=256, description="torch's own inside one call")
    platform: Printable = Field(max_length=500, description="hardware and libraries")


class Receipt(Form):
    """All of it is signed but `signature` itself."""

    format: Literal["fcs-receipt/1"]
    service: Printable = Field(max_length=100, description="version of fcs-serve")
    issued_at: int = Field(ge=0, le=10**11, description="UTC seconds, by the signer's clock")
    model: Model
    preprocessing: Preprocessing
    picture: Digest = Field(description="of x: its shape and its 8-bit values")
    embedding: Digest = Field(description="of the little-endian float32 values")
    certificate: Certificate
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$", description="Ed25519, claimed by itself")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$", description="of the RFC 8785 form")

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        steps = self.certificate.checkpoints
        if any(one >= two for one, two in pairwise(steps)):
            raise ValueError("checkpoints must rise")
        if self.certificate.samples.estimation > steps[-1]:
            raise ValueError("more estimation samples were spent than the last checkpoint allows")
        return self

    def signed_by(self, public_key: str) -> bool:
        """Whether this key (64 hex digits) signed exactly these values."""
        message = canonical(self.model_dump(mode="json", exclude={"signature"}))
        return matches(public_key, self.signature, message)


def picture_digest(x: NDArray[np.uint8]) -> str:
    """Digest of x, uint8 [3, H, W]: `uint8 3xHxW`, a line feed, the values in C order."""
    shape = "x".join(map(str, x.shape))
    whole = hashlib.sha256(f"uint8 {shape}\n".encode() + np.ascontiguousarray(x).tobytes())
    return f"sha256:{whole.hexdigest()}"


def embedding_digest(values: bytes) -> str:
    """Digest of an embedding, little-endian float32 bytes."""
    return f"sha256:{hashlib.sha256(values).hexdigest()}"


def content(
    item: Embedding, picture: str, model: ModelInfo, preprocessing: types.Preprocessing
) -> dict[str, Any]:
    """What a replay recomputes: every field but who signed it, and when.

    Args:
        item: with its certificate.
        picture: digest of x.
        model: as loaded.
        preprocessing: the model's.
    """
    if item.certificate is None:
        raise ValueError("a receipt needs a certificate")
    return {
        "model": {
            "name": model.name,
            "revision": model.revision,
            "dimensions": model.dimensions,
            "device": model.device.partition(":")[0],
            "dtype": model.dtype,
            "memory_format": model.memory_format,
            "batch_size": model.batch_size,
            "threads": model.threads,
            "platform": model.platform,
        },
        "preprocessing": asdict(preprocessing),
        "picture": picture,
        "embedding": embedding_digest(item.values),
        "certificate": certificate_form(item.certificate),
    }


def sign(fields: dict[str, Any], signer: Signer) -> str:
    """JSON text of a receipt with these fields, its key and its signature among them."""
    whole = {**fields, "public_key": signer.public_key}
    return canonical({**whole, "signature": signer.sign(canonical(whole))}).decode()


def with_receipts(
    items: tuple[Embedding, ...],
    pictures: Sequence[NDArray[np.uint8]],
    model: ModelInfo,
    preprocessing: types.Preprocessing,
    signer: Signer,
    issued_at: int,
) -> tuple[Embedding, ...]:
    """The same answers, each with its signed receipt.

    Args:
        items: with their certificates.
        pictures: x of each as certified, uint8 [3, H, W].
        model: as loaded.
        preprocessing: the model's.
        signer: holds the key.
        issued_at: UTC seconds.
    """
    issued = {"format": FORMAT, "service": __version__, "issued_at": issued_at}
    return tuple(
        replace(
            item,
            receipt=sign(issued | content(item, picture_digest(x), model, preprocessing), signer),
        )
        for item, x in zip(items, pictures, strict=True)
    )
