"""The operator's socket: whose it is, what is found in its place, and the commands that use it."""

import asyncio
import socket
import stat
import threading

import httpx
import pytest

from service.config import Settings
from service.control import ControlServer
from service.core import Core
from service.errors import ConfigurationError
from tests import launch
from tests.conftest import start_server, stop_server
from tests.rest.test_embed import metric
from tests.tiny import picture


@pytest.fixture(scope="module")
def operated(tmp_path_factory):
    """A server whose operator's socket is known."""
    path = tmp_path_factory.mktemp("run") / "control.sock"
    running = start_server(environment={"FCS_CONTROL_SOCKET": str(path)})
    yield running, path
    stop_server(running)
    assert not path.exists()


def command(*words, path):
    return launch.fcs("models", *words, "--socket", path)


def test_a_model_is_activated_and_deactivated_while_requests_go_on(operated):
    server, path = operated
    over, codes = threading.Event(), []

    def ask():
        with server.client() as client:
            while not over.is_set():
                body = {"samples": "60", "selection_samples": "10"}
                answer = client.post("/embed", files={"inputs": picture()}, data=body)
                codes.append(answer.status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        again = command("activate", "efficientnet-lite0-160/1", path=path)
        second = command("activate", "mobilenet-v2-224", path=path)
        with server.client() as client:
            both = [model["name"] for model in client.get("/info").json()["models"]]
        gone = command("deactivate", "mobilenet-v2-224", path=path)
        with server.client() as client:
            one = [model["name"] for model in client.get("/info").json()["models"]]
    finally:
        over.set()
        asking.join()
    assert again.returncode == 0, again.stderr
    assert "efficientnet-lite0-160 is served as sha256:" in again.stdout
    assert second.returncode == 0, second.stderr
    assert both == ["efficientnet-lite0-160", "mobilenet-v2-224"]
    assert gone.returncode == 0, gone.stderr
    assert one == ["efficientnet-lite0-160"]
    assert len(codes) > 3
    assert set(codes) == {200}
    assert metric(server, 'fcs_model_reloads_total{outcome="changed"}') == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("activate", "no-such-model"), "no model 'no-such-model'"),
        (("activate", "efficientnet-lite0-160/99"), "no version '99'"),
        (("deactivate", "efficientnet-lite0-160"), "is the default model"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_nothing_changes(operated, words, reason):
    server, path = operated
    with server.client() as client:
        before = client.get("/info").json()["models"]
        ended = command(*words, path=path)
        assert client.get("/info").json()["models"] == before
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_without_a_service_the_command_says_where_it_looked(tmp_path):
    ended = command("activate", "anything", path=tmp_path / "absent.sock")
    assert ended.returncode == 2
    assert f"no service answers at {tmp_path / 'absent.sock'}" in ended.stderr


def test_only_its_own_user_may_open_the_socket(operated):
    _, path = operated
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_malformed_request_is_refused_in_the_common_form(operated):
    _, path = operated
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        refused = client.post("http://control/models/activate", json={"name": "x"})
    assert refused.status_code == 422
    assert refused.json()["error"]["type"] == "invalid_request"


def control(path):
    """Start and stop one over a core that is not started."""

    async def scenario():
        core = Core(Settings(control_socket=path))
        server = ControlServer(core, 0)
        try:
            await server.start()
            await server.stop()
        finally:
            await core.drain()

    asyncio.run(scenario())


def test_what_a_killed_process_left_behind_is_taken_away(tmp_path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    control(path)
    assert not path.exists()


def test_a_socket_that_somebody_listens_on_and_a_file_are_left_alone(tmp_path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigurationError, match="another process listens"):
            control(path)
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(ConfigurationError, match="no control socket"):
        control(file)
    assert file.read_text() == "kept"


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="alone to write"):
        control(tmp_path / "control.sock")
