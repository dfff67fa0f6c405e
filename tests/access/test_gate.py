"""The gate with a clock of its own: keys that change, budgets that run out and come back."""

from datetime import UTC, datetime

import pytest

from service.access.gate import Gate
from service.access.keys import digest
from service.caller import Caller, calling
from service.config import Settings
from service.errors import ConfigurationError, Kind, ServiceError
from service.metrics import Metrics


class Time:
    def __init__(self):
        self.s = 1000.0

    def __call__(self):
        return self.s


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.toml"


def write(file, **keys):
    text = "[keys]\n"
    for name, limits in keys.items():
        text += f'[keys.{name}]\nsha256 = "{digest(name)}"\n'
        text += "".join(f"{limit} = {value}\n" for limit, value in limits.items())
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def gate_of(file, time, **settings):
    metrics = Metrics("test")
    settings = Settings(api_keys=file, **settings)
    gate = Gate(settings, metrics, time, lambda: datetime(2027, 1, 1, tzinfo=UTC))
    return gate, metrics


def refused(work):
    with pytest.raises(ServiceError) as caught, work:
        pass
    return caught.value


def reloads(metrics):
    text = metrics.render().decode()
    return [
        int(float(text.split(f'fcs_api_keys_reloads_total{{outcome="{o}"}} ')[1].split()[0]))
        for o in ("succeeded", "failed")
    ]


def test_keys_are_taken_from_either_header_and_unknown_and_expired_are_one(file, time):
    write(file, ann={}, old={"expires": "2026-12-31T23:59:59Z"})
    gate, _ = gate_of(file, time)
    assert gate.client_of("Bearer ann", None) == "ann"
    assert gate.client_of("bearer  ann ", None) == "ann"
    assert gate.client_of(None, "ann") == "ann"
    assert gate.client_of("Basic eDp5", "ann") == "ann"
    assert gate.client_of("Bearer old", "ann") is None
    wrong = [gate.client_of(*given) for given in [(None, None), ("Bearer old", None), ("ann", "")]]
    assert wrong == [None] * 3
    errors = {refused(gate.request(client)).message for client in wrong}
    assert len(errors) == 1
    assert refused(gate.request(None)).kind is Kind.UNAUTHENTICATED


def test_without_a_file_everyone_may_ask(time):
    gate = Gate(Settings(), Metrics("test"), time)
    assert gate.client_of("Bearer anything", None) is None
    with gate.request(None):
        pass


def test_a_changed_file_counts_within_a_second_and_a_malformed_one_not_at_all(file, time, caplog):
    write(file, ann={})
    gate, metrics = gate_of(file, time)
    write(file, bob={})
    assert gate.client_of("Bearer ann", None) == "ann"  # looked at less than a second ago
    time.s += 1
    assert gate.client_of("Bearer ann", None) is None
    assert gate.client_of("Bearer bob", None) == "bob"
    assert reloads(metrics) == [1, 0]
    file.write_text("[keys.bob]\nsha256 = 'bob'\n")
    for _ in range(3):
        time.s += 1
        assert gate.client_of("Bearer bob", None) == "bob"
    file.unlink()
    for _ in range(3):
        time.s += 1
        assert gate.client_of("Bearer bob", None) == "bob"
    assert reloads(metrics) == [1, 2]
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 2
    write(file, ann={})
    time.s += 1
    assert gate.client_of("Bearer ann", None) == "ann"
    assert gate.client_of("Bearer bob", None) is None
    assert reloads(metrics) == [2, 2]


def test_a_link_that_is_swapped_as_kubernetes_does_is_followed(tmp_path, time):
    for version, name in (("one", "ann"), ("two", "bob")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "keys.toml", **{name: {}})
    data = tmp_path / "data"
    data.symlink_to("one")
    (tmp_path / "keys.toml").symlink_to("data/keys.toml")
    gate, _ = gate_of(tmp_path / "keys.toml", time)
    assert gate.client_of("Bearer ann", None) == "ann"
    (tmp_path / "fresh").symlink_to("two")
    (tmp_path / "fresh").replace(data)
    time.s += 1
    assert gate.client_of("Bearer ann", None) is None
    assert gate.client_of("Bearer bob", None) == "bob"


def test_a_file_that_cannot_be_used_ends_the_start(file, time):
    with pytest.raises(ConfigurationError, match="cannot read the API keys"):
        gate_of(file, time)


def test_requests_of_a_minute_run_out_and_come_back_when_the_oldest_is_a_minute_old(file, time):
    write(file, ann={"requests_per_minute": 2}, bob={})
    gate, _ = gate_of(file, time)
    for _ in range(2):
        with gate.request("ann"):
            time.s += 10
    error = refused(gate.request("ann"))
    assert (error.kind, error.retry_after_s) == (Kind.RATE, 40)
    with gate.request("bob"):
        pass
    time.s += 40
    with gate.request("ann"):
        pass


def test_requests_in_work_are_bounded_for_a_key_and_over_all(file, time):
    write(file, ann={"concurrent_requests": 1, "requests_per_minute": 2}, bob={})
    gate, metrics = gate_of(file, time, max_requests=2)
    with gate.request("ann"):
        assert refused(gate.request("ann")).kind is Kind.RATE
        with gate.request("bob"):
            assert "fcs_requests_running 2.0" in metrics.render().decode()
            assert refused(gate.request("bob")).kind is Kind.BUSY
    with gate.request("ann"):  # what was refused has cost nothing
        pass
    assert "fcs_requests_running 0.0" in metrics.render().decode()


def test_requests_of_a_stream_are_charged_one_by_one_and_open_streams_are_bounded(file, time):
    write(file, ann={"concurrent_requests": 1, "requests_per_minute": 2})
    gate, _ = gate_of(file, time)
    with gate.stream("ann"):
        assert "streams open" in refused(gate.stream("ann")).message
        for _ in range(2):
            with gate.charged("ann"):
                assert "in work" in refused(gate.charged("ann")).message
        assert "of this minute" in refused(gate.charged("ann")).message


def test_a_stream_is_refused_further_requests_once_its_key_is_withdrawn_or_over(file, time):
    write(file, a={"requests_per_minute": 9}, b={"expires": "2027-01-01T00:00:01Z"})
    now = [datetime(2027, 1, 1, tzinfo=UTC)]
    gate = Gate(Settings(api_keys=file), Metrics("test"), time, lambda: now[0])
    with gate.stream("a"), gate.stream("b"):
        with gate.charged("a"), gate.charged("b"):
            pass
        now[0] = datetime(2027, 1, 1, 0, 0, 1, tzinfo=UTC)
        assert refused(gate.charged("b")).kind is Kind.UNAUTHENTICATED
        write(file, c={})
        time.s += 1
        assert refused(gate.charged("a")).kind is Kind.UNAUTHENTICATED


def test_a_key_that_is_replaced_under_its_name_opens_nothing_more_for_a_stream(file, time):
    write(file, a={"requests_per_minute": 9})
    gate, _ = gate_of(file, time)
    with gate.stream("a"):
        with gate.charged("a"):
            pass
        file.write_text(file.read_text().replace(digest("a"), digest("another")))
        time.s += 1
        assert refused(gate.charged("a")).kind is Kind.UNAUTHENTICATED
    with gate.request("a"):  # of who has the new one
        pass


def test_samples_are_charged_at_once_and_what_was_not_drawn_is_given_back(file, time):
    write(file, ann={"samples_per_minute": 1000})
    gate, _ = gate_of(file, time)
    with calling(Caller("id", "ann")):
        with gate.drawing(800) as drawing:
            assert refused(gate.drawing(201)).kind is Kind.RATE
            gate.check_samples(200)
            drawing.drawn = 300
        time.s += 20
        with gate.drawing(700) as drawing:
            drawing.drawn = 700
        error = refused(gate.drawing(1))
        assert (error.kind, error.retry_after_s) == (Kind.RATE, 40)
        never = refused(gate.drawing(1001))
        assert (never.kind, never.param) == (Kind.INVALID, "samples")
        assert "never" in never.message
    with calling(Caller("id", None)), gate.drawing(10**6):
        pass


def test_limits_that_change_hold_for_what_was_spent_before(file, time):
    write(file, ann={"requests_per_minute": 5})
    gate, _ = gate_of(file, time)
    for _ in range(3):
        with gate.request("ann"):
            pass
    write(file, ann={"requests_per_minute": 3})
    time.s += 1
    assert refused(gate.request("ann")).kind is Kind.RATE
