import pytest
from pydantic import ValidationError

from service.config import load_settings
from service.errors import ConfigurationError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "fcs.toml"
    path.write_text('port = 1111\nmodel = "from-file"\nmax_samples = 7\n')
    return path


def test_command_line_beats_environment_beats_file_beats_default(file, monkeypatch):
    monkeypatch.setenv("FCS_MODEL", "from-environment")
    monkeypatch.setenv("FCS_PORT", "2222")
    settings = load_settings(file, port=3333)
    assert settings.port == 3333
    assert settings.model == "from-environment"
    assert settings.max_samples == 7
    assert settings.grpc_port == 50051


def test_the_file_can_be_named_in_the_environment(file, monkeypatch):
    monkeypatch.setenv("FCS_CONFIG", str(file))
    assert load_settings().max_samples == 7


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


@pytest.mark.parametrize(
    "text", ["port = 70000", 'port = "many"', "port = ", 'dtype = "float8"'], ids=str
)
def test_a_bad_value_or_file_is_one_clear_line(tmp_path, text):
    path = tmp_path / "fcs.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.toml"):
        load_settings(tmp_path / "absent.toml")


def test_settings_never_change_after_they_are_made():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1
