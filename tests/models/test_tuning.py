"""What is chosen, on a machine whose every measurement is made up; then once on this one."""

from dataclasses import replace

import pytest
import torch

from service.config import load_settings
from service.models import packages, tuning
from service.models.arrangement import space
from service.models.tuning import arrange, choose, known
from service.types import Tuning
from tests.tiny import HOW, Rotation

CPU = torch.device("cpu")
DEFAULT = load_settings().model_store / "efficientnet-lite0-160" / "1"


@pytest.fixture(autouse=True)
def two_cores_that_multiply_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(tuning, "available_cores", lambda: 2)


def space_of(**pins):
    return space(8, load_settings(**pins), CPU, cores=2)


class Machine:
    """Takes `speed(arrangement, visit)` seconds a sample, on a clock of its own."""

    def __init__(self, speed):
        self.speed = speed
        self.now = 0.0
        self.visits = []

    def measure(self, arrangement):
        visit = self.visits.count(arrangement)
        self.visits.append(arrangement)
        seconds = self.speed(arrangement, visit)
        self.now += seconds * arrangement.batch_size
        return seconds

    def choose(self, spaces, budget_s=1000.0):
        return choose(spaces, self.measure, budget_s, lambda: self.now)


def test_the_fastest_layout_is_chosen_and_then_its_fastest_batch_size():
    def speed(a, _):
        layout = 0.7 if (a.memory_format, a.threads) == ("contiguous", 2) else 1.0
        return layout * (0.8 if a.batch_size == 16 else 1.0)

    found = Machine(speed).choose(space_of())
    assert found.arrangement == replace(
        space_of().own, memory_format="contiguous", lanes=1, threads=2, batch_size=16
    )
    assert found.ms_per_sample == pytest.approx(1000 * 0.7 * 0.8)
    assert found.note == ""


def test_the_own_arrangement_stands_unless_another_is_a_tenth_faster():
    own = space_of().own
    for share, stands in ((0.91, True), (0.89, False)):
        machine = Machine(lambda a, _, share=share: 1.0 if a == own else share)
        assert (machine.choose(space_of()).arrangement == own) is stands


def test_a_challenger_that_loses_a_single_round_is_not_chosen():
    own = space_of().own
    found = Machine(lambda a, visit: 1.0 if a == own or visit == 4 else 0.5).choose(space_of())
    assert found.arrangement == own


def test_the_first_visit_of_an_arrangement_does_not_count():
    own = space_of().own

    def speed(a, visit):
        if a.dtype == "float32":
            return 9.0 if visit == 0 else 0.5
        return 1.0

    assert Machine(speed).choose(space_of()).arrangement == replace(own, dtype="float32")


def test_losers_are_not_visited_again_and_the_rounds_take_turns():
    own = space_of().own
    machine = Machine(lambda a, _: 1.0 if a == own else 2.0)
    machine.choose(space_of())
    assert all(machine.visits.count(a) == 2 for a in space_of().layouts()[1:])
    fast = replace(own, dtype="float32")
    racing = Machine(lambda a, _: 0.5 if a == fast else 1.0 if a == own else 2.0)
    racing.choose(space_of())
    alone = [a for a in racing.visits[18:] if a in (own, fast)]
    assert alone[:10] == [own, fast] * 5


@pytest.mark.parametrize(
    "pins",
    [
        {"dtype": "float32"},
        {"memory_format": "contiguous"},
        {"batch_size": 5},
        {"lanes": 1},
        {"threads": 2},
        {"dtype": "bfloat16", "lanes": 2, "threads": 1, "batch_size": 3},
    ],
    ids=str,
)
def test_what_is_pinned_is_not_searched(pins):
    machine = Machine(lambda a, visit: 1.0)
    found = machine.choose(space_of(**pins))
    for visited in (*machine.visits, found.arrangement):
        assert {name: getattr(visited, name) for name in pins} == pins


def test_a_slow_model_is_measured_twice_and_keeps_its_own_arrangement():
    machine = Machine(lambda a, _: 1.0)
    found = machine.choose(space_of(), budget_s=100)
    assert machine.visits == [space_of().own] * 2
    assert found.arrangement == space_of().own
    assert "too slow" in found.note


@pytest.mark.parametrize("budget_s", [165.0, 200.0, 290.0, 350.0])
def test_the_budget_is_kept_and_half_a_comparison_decides_nothing(budget_s):
    machine = Machine(lambda a, _: 1.0 if a.memory_format == "channels_last" else 0.8)
    found = machine.choose(space_of(), budget_s)
    longest = max(a.batch_size for a in machine.visits)
    assert machine.now < budget_s + longest
    assert found.arrangement == space_of().own
    assert "to compare" in found.note


@pytest.fixture
def manifest():
    return packages.read_manifest(DEFAULT)


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measuring: contiguous is fastest. Returns what was measured."""
    machine = Machine(lambda a, _: 0.001 if a.memory_format == "contiguous" else 0.002)
    monkeypatch.setattr(
        tuning._Bench, "seconds_per_sample", lambda _, arrangement: machine.measure(arrangement)
    )
    return machine.visits


def settings_in(folder, **changes):
    return load_settings(cache_dir=folder, **{"tune": True, **changes})


def test_what_was_measured_is_kept_for_later_starts(tmp_path, manifest, measured):
    settings = settings_in(tmp_path)
    first = arrange(Rotation(), manifest, CPU, settings, measure=True)
    assert first.arrangement.memory_format == "contiguous"
    assert first.tuning == Tuning("measured", pytest.approx(1.0))
    measured.clear()
    for measure in (True, False):
        again = arrange(Rotation(), manifest, CPU, settings, measure)
        assert again.arrangement == first.arrangement
        assert again.tuning == replace(first.tuning, source="cached")
    assert known(manifest, CPU, settings) == again
    assert measured == []


def test_a_broken_file_is_measured_anew(tmp_path, manifest, measured):
    settings = settings_in(tmp_path)
    arrange(Rotation(), manifest, CPU, settings, measure=True)
    (file,) = (tmp_path / "tuning").iterdir()
    file.write_text("{}")
    assert arrange(Rotation(), manifest, CPU, settings, True).tuning.source == "measured"
    assert arrange(Rotation(), manifest, CPU, settings, True).tuning.source == "cached"


@pytest.mark.parametrize("change", ["cores", "weights", "platform", "pins"])
def test_other_circumstances_are_measured_anew(tmp_path, manifest, measured, monkeypatch, change):
    settings = settings_in(tmp_path)
    arrange(Rotation(), manifest, CPU, settings, measure=True)
    if change == "cores":
        monkeypatch.setattr(tuning, "available_cores", lambda: 3)
    elif change == "weights":
        encoder = manifest.encoder.model_copy(update={"sha256": "0" * 64})
        manifest = manifest.model_copy(update={"encoder": encoder})
    elif change == "platform":
        monkeypatch.setattr(tuning, "describe", lambda device: "another machine")
    else:
        settings = settings_in(tmp_path, batch_size=3)
    assert arrange(Rotation(), manifest, CPU, settings, True).tuning.source == "measured"


def test_without_leave_to_measure_the_packages_own_serves(tmp_path, manifest, measured):
    found = arrange(Rotation(), manifest, CPU, settings_in(tmp_path), measure=False)
    assert found.arrangement == space_of().own
    assert found.tuning.source == "package"
    assert "not measured yet" in found.tuning.note
    assert measured == []


@pytest.mark.parametrize(
    ("changes", "device", "source", "note"),
    [
        ({"tune": False}, "cpu", "package", "tune is off"),
        ({}, "cuda", "package", "nothing is measured on cuda"),
        (
            {
                "dtype": "float32",
                "memory_format": "contiguous",
                "batch_size": 2,
                "lanes": 1,
                "threads": 1,
            },
            "cpu",
            "pinned",
            "",
        ),
    ],
    ids=["off", "cuda", "pinned"],
)
def test_where_there_is_nothing_to_measure_it_says_why(
    tmp_path, manifest, measured, changes, device, source, note
):
    settings = settings_in(tmp_path, **changes)
    found = arrange(Rotation(), manifest, torch.device(device), settings, measure=True)
    assert found.tuning == Tuning(source, None, note)
    assert measured == []
    assert not (tmp_path / "tuning").exists()


def test_a_kept_measurement_does_not_count_when_tuning_is_off(tmp_path, manifest, measured):
    arrange(Rotation(), manifest, CPU, settings_in(tmp_path), measure=True)
    found = arrange(Rotation(), manifest, CPU, settings_in(tmp_path, tune=False), measure=True)
    assert found.arrangement == space_of().own


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, manifest, measured, caplog):
    (tmp_path / "tuning").write_text("in the way")
    for _ in range(2):
        found = arrange(Rotation(), manifest, CPU, settings_in(tmp_path), measure=True)
        assert found.arrangement.memory_format == "contiguous"
        assert (found.tuning.source, found.tuning.note) == ("measured", "could not be kept")
    assert "measures anew" in caplog.text


def test_a_model_too_slow_to_compare_is_told_and_remembered(
    tmp_path, manifest, measured, monkeypatch
):
    monkeypatch.setattr(tuning, "BUDGET_S", 0.0)
    first = arrange(Rotation(), manifest, CPU, settings_in(tmp_path), measure=True)
    assert first.arrangement == space_of().own
    assert first.tuning.source == "package"
    assert "too slow" in first.tuning.note
    measured.clear()
    again = arrange(Rotation(), manifest, CPU, settings_in(tmp_path), measure=True)
    assert again.tuning == replace(first.tuning, source="cached")
    assert measured == []


def test_a_model_that_fails_while_it_is_measured_is_left_to_the_warm_up(tmp_path, manifest, caplog):
    encoder = Rotation()
    encoder.fails_on = lambda pixels: True
    found = arrange(encoder, manifest, CPU, settings_in(tmp_path), measure=True)
    assert found.arrangement == space_of().own
    assert "the device refused this batch" in found.tuning.note
    assert not (tmp_path / "tuning").exists()


def test_every_candidate_can_be_measured_and_the_encoder_stays_as_it_was():
    encoder = torch.nn.Conv2d(3, 4, 3).requires_grad_(False)

    class Convolution(Rotation):
        def __init__(self):
            super().__init__()
            self.inner = encoder

        def pooled(self, pixels):
            seen.add((pixels.dtype, len(pixels), torch.get_num_threads()))
            return self.inner(pixels).mean((2, 3))

    seen = set()
    with tuning._Bench(Convolution(), HOW, 16) as bench:
        for layout in space_of().layouts():
            for arrangement in space_of().batches(layout):
                assert bench.seconds_per_sample(arrangement) > 0
    assert seen == {
        (dtype, size, threads)
        for dtype in (torch.float32, torch.bfloat16)
        for size in (4, 8, 16, 32)
        for threads in (1, 2)
    }
    assert encoder.weight.dtype is torch.float32
