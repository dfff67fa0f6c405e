import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.receipts.canonical import canonical, number

# RFC 8785, appendix B.
VECTORS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), VECTORS.items(), ids=VECTORS.values())
def test_numbers_are_written_as_the_standard_says(bits, text):
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_read_back_to_the_last_bit(value):
    for text in (number(value), canonical([value])[1:-1].decode()):
        assert float(text) == value
        assert json.loads(text, parse_int=float) == value


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_a_whole_number_has_one_form_whatever_its_type(value):
    assert canonical(value) == canonical(float(value))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126)), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_the_form_survives_any_way_of_storing_the_value(value):
    form = canonical(value)
    assert json.loads(form, parse_int=float) == value
    assert canonical(json.loads(form)) == form
    assert canonical(json.loads(json.dumps(value, indent=3, ensure_ascii=True))) == form


def test_names_are_sorted_and_nothing_is_escaped_that_need_not_be():
    value = {"b": [1.0, None, True], "a": {"text": 'naïve "\n\x01€'}}
    expected = '{"a":{"text":"naïve \\"\\n\\u0001€"},"b":[1,null,true]}'
    assert canonical(value) == expected.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, {1, 2}, b"x"], ids=type)
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="place in JSON"):
        canonical([value])
