"""The file of API keys, and whose a key is."""

from datetime import UTC, datetime, timedelta

import pytest

from service.access.keys import digest, new_key, read_keys, whose
from service.errors import ConfigurationError

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def read(tmp_path, text):
    file = tmp_path / "keys.toml"
    file.write_text(text)
    return read_keys(file)


def table(name, key, *lines):
    return "\n".join([f"[keys.{name}]", f'sha256 = "{digest(key)}"', *lines, ""])


def test_a_key_opens_under_its_name_until_it_expires(tmp_path):
    one, two = new_key(), new_key()
    keys = read(tmp_path, table("one", one) + table("two", two, "expires = 2027-01-01T00:00:00Z"))
    assert whose(keys, one, NOW) == "one"
    assert whose(keys, two, NOW - timedelta(seconds=1)) == "two"
    assert whose(keys, two, NOW) is None
    assert whose(keys, new_key(), NOW) is None
    assert whose(keys, "", NOW) is None
    assert whose(keys, keys["one"].sha256, NOW) is None  # who reads the file has no key


def test_keys_are_256_random_bits_with_a_prefix():
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("fcs-") and len(key) == 4 + 43 for key in made)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must hold tables"),
        ("x = 1", "must hold tables"),
        ("keys = 1", "must hold tables"),
        ("[keys.a]", "keys.a.sha256: Field required"),
        ("[keys.a]\nsha256 = 'SECRET'", "64 lower-case hex digits"),
        (f"[keys.a]\nsha256 = '{'A' * 64}'", "64 lower-case hex digits"),
        (table("a", "k", "sampels_per_minute = 1"), "keys.a.sampels_per_minute: unknown field"),
        (table("a", "k", "samples_per_minute = 0"), "greater than or equal to 1"),
        (table("a", "k", "samples_per_minute = true"), "valid integer"),
        (table("a", "k", "expires = 2027-01-01T00:00:00"), "timezone"),
        (table("a", "k", "expires = 2027-01-01"), "expires"),
        (table("a", "k") + table("b", "k"), "keys.b is the same key as keys.a"),
        (table("a", "k") + table("a", "l"), "not valid TOML"),
        (table("'a b'", "k"), "a key's name"),
        ("[keys.a]\nsha256 = 'SECRET", "not valid TOML"),
    ],
)
def test_a_malformed_file_is_refused_and_nothing_secret_of_it_repeated(tmp_path, text, reason):
    with pytest.raises(ConfigurationError, match=reason) as refused:
        read(tmp_path, text)
    assert "SECRET" not in str(refused.value)


def test_a_table_without_keys_withdraws_all(tmp_path):
    assert read(tmp_path, "[keys]\n") == {}
