"""One byte form of a JSON value: the JSON Canonicalization Scheme, RFC 8785.

It is a form of the *values*: names sorted, no spaces, every number by the shortest digits that read
back to the same double. However a client stores a receipt, the signed bytes can be made again.
"""

import json
import math
from decimal import Decimal
from typing import Any


def canonical(value: Any) -> bytes:
    """The bytes that are signed.

    Args:
        value: None, bool, int, float, str, or lists, tuples and dicts of those. Whole numbers are
            doubles, as in the standard; names of dicts are ASCII, whose order is the same in every
            encoding.

    Raises:
        ValueError: NaN, infinity, or another type.
    """
    return _text(value).encode()


def number(value: float) -> str:
    """A double as ECMAScript writes it; `float` of the text is the same double (-0 becomes 0).

    Raises:
        ValueError: NaN or infinity.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} has no place in JSON")
    if value == 0:
        return "0"
    sign, figures, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, figures))
    point = len(digits) + int(exponent)  # its place, counted from the first digit
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{rest}e{point - 1:+d}"
    return f"-{text}" if sign else text


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("a whole number of this size has no place in JSON") from error


def _text(value: Any) -> str:
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (int, float)):
        return number(_double(value))
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        pairs = (f"{json.dumps(name)}:{_text(value[name])}" for name in sorted(value))
        return f"{{{','.join(pairs)}}}"
    raise ValueError(f"{type(value).__name__} has no place in JSON")
