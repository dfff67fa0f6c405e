"""Files that belong together and change one after the other."""

from pathlib import Path

import pytest

from service.changing import Changing
from service.errors import ConfigurationError
from service.metrics import Metrics


class Time:
    s = 0.0

    def __call__(self):
        return self.s


def pair(one: Path, two: Path) -> str:
    if (found := one.read_text()) != two.read_text():
        raise ConfigurationError("they do not belong together")
    return found


def test_what_does_not_fit_together_waits_for_its_other_half(tmp_path, caplog):
    one, two, time, metrics = tmp_path / "1", tmp_path / "2", Time(), Metrics("test")
    one.write_text("a")
    two.write_text("a")
    files = Changing((one, two), lambda: pair(one, two), metrics.tls_reloads, time)
    one.write_text("bb")
    for _ in range(3):
        time.s += 1
        assert files.current() == "a"
    assert len(caplog.records) == 1
    two.write_text("bb")
    assert files.current() == "a"
    time.s += 1
    assert files.current() == "bb"


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, caplog):
    file, time, metrics = tmp_path / "1", Time(), Metrics("test")
    file.write_text("a")
    later = []

    def read():
        found = file.read_text()
        if later:
            file.write_text(later.pop())
        return found

    files = Changing((file,), read, metrics.tls_reloads, time)
    later.append("newest")
    file.write_text("new")
    time.s += 1
    assert files.current() == "a"
    time.s += 1
    assert files.current() == "newest"


def test_the_first_reading_must_succeed(tmp_path):
    def read():
        raise ConfigurationError("no")

    with pytest.raises(ConfigurationError):
        Changing((tmp_path / "1",), read, Metrics("test").tls_reloads)
