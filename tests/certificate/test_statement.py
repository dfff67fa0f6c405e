from service.certificate.statement import statement
from service.types import RadiusBound, Space

SPACE = Space(160, 160)


def bound(radius, value):
    method = "directional" if value > -1 else "none"
    return RadiusBound(radius, value, -1.0, -1.0, method)


def test_speaks_of_the_largest_radius_that_is_certified_and_rounds_down():
    text = statement(
        (bound(0.125, 0.9), bound(0.25, 0.87659), bound(0.5, -1.0)), 0.999, SPACE, False
    )
    assert "at least 0.999 " in text
    assert "within l2 distance 0.25 " in text
    assert text.endswith("at least 0.8765.")


def test_never_rounds_confidence_up_to_certainty():
    text = statement((bound(0.1234567891, 0.9),), 0.99999999, SPACE, False)
    assert "probability at least 0.99999999 " in text
    assert "0.1234567891" in text


def test_says_so_when_nothing_is_certified():
    assert "Nothing could be certified" in statement((bound(0.5, -1.0),), 0.999, SPACE, False)


def test_warns_of_a_seed_the_client_chose():
    assert "client chose" in statement((bound(0.5, 0.4),), 0.999, SPACE, True)
