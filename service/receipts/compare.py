"""Receipt and replay, value by value."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.receipts.receipt import Receipt

Leaf = str | float | bool | None
ABSENT = "absent"
# What decides the last bits: where one of these differs, equality cannot be expected.
_CIRCUMSTANCES = {
    "device": "the kind of device",
    "dtype": "the number format",
    "memory_format": "the memory format",
    "batch_size": "the batch size",
    "threads": "the number of threads in one call",
    "platform": "the hardware or a library",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that came out otherwise."""

    field: str
    receipt: Leaf
    replay: Leaf


def differences(receipt: Receipt, replay: dict[str, Any]) -> list[Difference]:
    """All results that differ.

    Args:
        receipt: as read.
        replay: `receipt.content` of the recomputed answer, with the receipt's own `client_seed`
            and the statement that belongs to it.
    """
    signed = receipt.model_dump(mode="json")
    one = dict(_leaves({name: signed[name] for name in replay}))
    two = dict(_leaves(replay))
    skipped = {f"model.{name}" for name in _CIRCUMSTANCES}
    return [
        Difference(name, one.get(name, ABSENT), two.get(name, ABSENT))
        for name in {**one, **two}
        if name not in skipped and one.get(name, ABSENT) != two.get(name, ABSENT)
    ]


def circumstances(receipt: Receipt, replay: dict[str, Any]) -> list[str]:
    """What is not as it was when the receipt was made, in words."""
    signed = receipt.model.model_dump()
    return [
        f"{words} differs: {signed[name]} in the receipt, {replay['model'][name]} here"
        for name, words in _CIRCUMSTANCES.items()
        if signed[name] != replay["model"][name]
    ]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Leaf]]:
    """(`certificate.bounds[0].bound`, value) of every value that holds no others."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{i}]")
    else:
        yield name, value
