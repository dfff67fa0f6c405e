import json
import subprocess
import sys

import pytest
import torch

from service.config import load_settings
from service.models.arrangement import space
from service.models.tuning_cache import Kept, TuningCache
from service.types import Arrangement

CIRCUMSTANCES = {"weights": "ab", "cores": 2, "size": [8, 8], "pins": {"lanes": None}}
CHOSEN = Kept(Arrangement("float32", "contiguous", 16, 1, 2), 2.5, "a note")
SPACE = space(8, load_settings(), torch.device("cpu"), cores=2)


@pytest.fixture
def cache(tmp_path):
    return TuningCache(tmp_path / "tuning", CIRCUMSTANCES, SPACE)


def test_what_was_kept_is_read_back(cache, tmp_path):
    assert cache.read() is None
    assert cache.keep(CHOSEN) == CHOSEN
    assert TuningCache(tmp_path / "tuning", CIRCUMSTANCES, SPACE).read() == CHOSEN
    assert [file.name for file in cache.path.parent.iterdir()] == [cache.path.name]


def test_another_user_can_read_it(cache):
    """A container prepares as root and serves as somebody else."""
    cache.keep(CHOSEN)
    assert cache.path.stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize(("name", "value"), [("weights", "cd"), ("cores", 4), ("size", [8, 9])])
def test_other_circumstances_have_a_file_of_their_own(cache, tmp_path, name, value):
    cache.keep(CHOSEN)
    other = TuningCache(tmp_path / "tuning", {**CIRCUMSTANCES, name: value}, SPACE)
    assert other.read() is None


def damaged(path, *place, value):
    whole = json.loads(path.read_text())
    holder = whole
    for part in place[:-1]:
        holder = holder[part]
    holder[place[-1]] = value
    return json.dumps(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: "",
        lambda path: "[]",
        lambda path: path.read_text()[:-10],
        lambda path: damaged(path, "measured_for", "cores", value=64),
        lambda path: damaged(path, "arrangement", "batch_size", value=0),
        lambda path: damaged(path, "arrangement", "batch_size", value=7),
        lambda path: damaged(path, "arrangement", "dtype", value="float8"),
        lambda path: damaged(path, "arrangement", "lanes", value="1"),
        lambda path: damaged(path, "arrangement", "threads", value=200),
        lambda path: damaged(path, "ms_per_sample", value=-1),
        lambda path: damaged(path, "more", value=1),
    ],
)
def test_a_broken_or_foreign_file_counts_as_absent_and_is_written_anew(cache, damage):
    cache.keep(CHOSEN)
    cache.path.write_text(damage(cache.path))
    assert cache.read() is None
    assert cache.keep(CHOSEN) == CHOSEN
    assert cache.read() == CHOSEN


def test_bytes_that_are_no_text_count_as_absent(cache):
    cache.path.parent.mkdir()
    cache.path.write_bytes(b"\xff\xfe\x00")
    assert cache.read() is None


def test_of_two_choices_the_first_is_kept_by_both(cache):
    second = Kept(SPACE.own, 3.0, "")
    assert cache.keep(CHOSEN) == CHOSEN
    assert cache.keep(second) == CHOSEN
    assert cache.read() == CHOSEN


_RACER = """
import sys, torch
from pathlib import Path
from tests.models.test_tuning_cache import CIRCUMSTANCES, SPACE
from service.models.tuning_cache import Kept, TuningCache
cache = TuningCache(Path(sys.argv[1]), CIRCUMSTANCES, SPACE)
print("ready", flush=True)
sys.stdin.readline()
print(cache.keep(Kept(SPACE.own, float(sys.argv[2]), "")).ms_per_sample)
"""


def test_two_processes_at_once_end_with_the_same_choice(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), str(ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for ms in (1.0, 2.0, 3.0)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    chosen = {racer.communicate(timeout=60)[0] for racer in racers}
    assert len(chosen) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path):
    (tmp_path / "tuning").write_text("in the way")
    with pytest.raises(OSError, match="tuning"):
        TuningCache(tmp_path / "tuning", CIRCUMSTANCES, SPACE).keep(CHOSEN)
