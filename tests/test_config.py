import pytest
from pydantic import ValidationError

from service.config import load_settings
from service.errors import ConfigurationError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "fcs.toml"
    path.write_text('port = 1111\nmodel = "from-file"\nmax_samples = 70000\n')
    return path


def test_command_line_beats_environment_beats_file_beats_default(file, monkeypatch):
    monkeypatch.setenv("FCS_MODEL", "from-environment")
    monkeypatch.setenv("FCS_PORT", "2222")
    settings = load_settings(file, port=3333)
    assert settings.port == 3333
    assert settings.model == "from-environment"
    assert settings.max_samples == 70000
    assert settings.grpc_port == 50051


def test_the_file_can_be_named_in_the_environment(file, monkeypatch):
    monkeypatch.setenv("FCS_CONFIG", str(file))
    assert load_settings().max_samples == 70000


def test_absent_command_line_options_do_not_count(file):
    assert load_settings(file, port=None).port == 1111


def test_an_unknown_name_in_the_file_stops_the_start(tmp_path):
    path = tmp_path / "fcs.toml"
    path.write_text("max_sampels = 7\n")
    with pytest.raises(ConfigurationError, match="max_sampels"):
        load_settings(path)


def test_an_unknown_name_in_the_environment_stops_the_start(monkeypatch):
    monkeypatch.setenv("FCS_MAX_SAMPELS", "7")
    with pytest.raises(ConfigurationError, match="FCS_MAX_SAMPELS"):
        load_settings()


@pytest.mark.parametrize("name", ["fcs_port", "Fcs_Port", "fcs_max_pixls"])
def test_names_in_lower_case_do_not_pass_unseen(monkeypatch, name):
    monkeypatch.setenv(name, "8103")
    with pytest.raises(ConfigurationError, match=name):
        load_settings()


@pytest.mark.parametrize("line", ['_env_prefix = "X_"', "_cli_parse_args = true", "Port = 1"])
def test_a_file_cannot_steer_how_settings_are_read(tmp_path, line):
    path = tmp_path / "fcs.toml"
    path.write_text(line)
    with pytest.raises(ConfigurationError, match="unknown setting"):
        load_settings(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_SAMPLES", "10"),
        ("MAX_SELECTION_SAMPLES", "10"),
        ("MAX_RADII", "2"),
        ("DEFAULT_RADII", "[]"),
        ("DEFAULT_RADII", "[-1]"),
        ("DEFAULT_RADII", "0.1,0.2"),
        ("DEFAULT_CONFIDENCE", "0.9999999"),
    ],
)
def test_defaults_that_requests_could_not_ask_for_stop_the_start(monkeypatch, name, value):
    monkeypatch.setenv(f"FCS_{name}", value)
    with pytest.raises(ConfigurationError):
        load_settings()


@pytest.mark.parametrize(
    "text", ["port = 70000", 'port = "many"', "port = ", 'dtype = "float8"'], ids=str
)
def test_a_bad_value_or_file_is_one_clear_line(tmp_path, text):
    path = tmp_path / "fcs.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["batch_size", "lanes", "threads"])
def test_auto_and_absent_are_the_same_and_a_number_pins(monkeypatch, tmp_path, name):
    assert getattr(load_settings(), name) is None
    path = tmp_path / "fcs.toml"
    path.write_text(f'{name} = "auto"')
    assert getattr(load_settings(path), name) is None
    path.write_text(f"{name} = 3")
    assert getattr(load_settings(path), name) == 3
    assert getattr(load_settings(path, **{name: "auto"}), name) is None
    monkeypatch.setenv(f"FCS_{name.upper()}", "5")
    assert getattr(load_settings(path), name) == 5
    monkeypatch.setenv(f"FCS_{name.upper()}", "several")
    with pytest.raises(ConfigurationError, match=name):
        load_settings()


def test_settings_that_do_not_fit_together_are_told_in_one_sentence():
    with pytest.raises(ConfigurationError, match=r"^tls_certificate and tls_key belong together"):
        load_settings(tls_certificate="tls.crt")


def test_a_list_that_is_none_is_told_how_lists_are_written():
    with pytest.raises(ConfigurationError, match=r"extra_models.*lists are JSON"):
        load_settings(extra_models="mobilenet-v2-224")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.toml"):
        load_settings(tmp_path / "absent.toml")


def test_settings_never_change_after_they_are_made():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu,", "auto,cpu", "cpu\n"])
def test_a_device_that_is_none_is_refused_in_words(device):
    with pytest.raises(ConfigurationError, match="is no device: write auto, cpu, cuda"):
        load_settings(device=device)


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu,cpu", "cuda", "cuda:0,cuda:1"])
def test_devices_are_one_or_several(device):
    assert load_settings(device=device).device == device
