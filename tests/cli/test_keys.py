"""`fcs keys`: what is printed once, and what is kept."""

from datetime import UTC, datetime

from typer.testing import CliRunner

from service.access.keys import read_keys, whose
from service.cli.app import app

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def keys(*arguments):
    return CliRunner().invoke(app, ["keys", *arguments])


def test_a_new_key_is_printed_once_and_its_digest_appended(tmp_path):
    file = tmp_path / "keys.toml"
    first = keys("new", "ann", "--file", str(file), "--samples-per-minute", "1000")
    second = keys("new", "bob.2", "--file", str(file), "--expires", "2027-06-01")
    assert first.exit_code == second.exit_code == 0
    made = [one.stdout.strip() for one in (first, second)]
    read = read_keys(file)
    assert [whose(read, key, NOW) for key in made] == ["ann", "bob.2"]
    assert read["ann"].samples_per_minute == 1000
    assert read["bob.2"].expires == datetime(2027, 6, 1, tzinfo=UTC)
    assert file.stat().st_mode & 0o077 == 0
    assert not any(key in file.read_text() + first.stderr for key in made)
    listed = keys("list", "--file", str(file)).stdout
    assert "ann" in listed
    assert "bob.2" in listed
    assert read["ann"].sha256 not in listed


def test_a_second_key_of_a_name_and_a_malformed_name_are_refused(tmp_path):
    file = tmp_path / "keys.toml"
    assert keys("new", "ann", "--file", str(file)).exit_code == 0
    before = file.read_text()
    assert "already" in str(keys("new", "ann", "--file", str(file)).exception)
    assert "name" in str(keys("new", "a b", "--file", str(file)).exception)
    assert file.read_text() == before


def test_without_a_file_the_table_is_told_beside_the_key(tmp_path):
    made = keys("new", "ann", "--concurrent-requests", "2")
    file = tmp_path / "keys.toml"
    file.write_text(made.stderr.partition("\n\n")[2])
    assert whose(read_keys(file), made.stdout.strip(), NOW) == "ann"
