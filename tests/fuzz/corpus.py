"""The seeds of every target, written anew for each run; nothing is kept that was not made here."""

import base64
import json
from pathlib import Path

from service.rpc.generated import fcs_pb2 as pb
from tests.pictures.hostile import grey_png, seeds
from tests.receipts import sample

_PIXEL = "data:image/png;base64,iVBORw0KGgo="
_SAMPLING = {
    "inputs": [_PIXEL, "https://a.example/x.png"],
    "sigma": 0.25,
    "radii": [0.1],
    "samples": 20,
    "target": {"radius": 0.1, "bound": 0.9},
    "seed": "00" * 16,
    "timeout_ms": 1000,
}
_TEXT = {"type": "text", "text": "?"}
_IMAGE = {"type": "image_url", "image_url": {"url": _PIXEL}}
_BODIES = (
    {**_SAMPLING, "encoding_format": "base64", "receipt": True},
    {**_SAMPLING, "references": [{"id": "a", "embedding": "AACAPw=="}], "labels": ["a", "b"]},
    {
        **_SAMPLING,
        "messages": [{"role": "user", "content": [{"type": "image"}, _TEXT]}],
        "choices": ["a", "b"],
        "stop": "x",
    },
    {"messages": [{"role": "user", "content": [_IMAGE]}]},
    {"input": _PIXEL, "encoding_format": "base64", "user": "me"},
)


def write(folder: Path, target: str) -> None:
    """The corpus of one target, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(_of(target)):
        (folder / str(i)).write_bytes(data)


def _of(target: str) -> list[bytes]:
    embed = pb.EmbedRequest(images=[grey_png()], radii=[0.1], samples=20, seed="00" * 16)
    match target:
        case "pictures":
            return list(seeds().values())
        case "bodies":
            return [bytes([i]) + json.dumps(body).encode() for i, body in enumerate(_BODIES)]
        case "forms":
            fields = "\0samples\x0020\0radii\0[0.1]\0radii\x000.2\0labels\0a\0prompt\0what"
            return [(_PIXEL + "x" * i + fields).encode() for i in range(3)]
        case "messages":
            classify = pb.ClassifyRequest(embed=embed, labels=["a", "b"], label_set="x")
            part = pb.Part(text="what")
            told = pb.Message(role="user", parts=[part])
            answer = pb.AnswerRequest(embed=embed, messages=[told], stop=["x"], votes=3)
            kinds = (embed, classify, answer)
            return [bytes([i]) + kind.SerializeToString() for i, kind in enumerate(kinds)]
        case "receipts":
            values = base64.b64encode(sample.VALUES).decode()
            item = {"embedding": values, "receipt": sample.fields()}
            return [sample.text().encode(), json.dumps({"data": [item]}).encode()]
        case _:
            return [b"https://a.example/x?y=z#f", b"http://b.example:8080/", b"https://u@a.example"]
