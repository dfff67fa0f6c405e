"""A server that measures at its first start, and the commands that follow its choice."""

import json

import pytest

from service.rpc.generated import fcs_pb2 as pb
from tests.cli.conftest import run_fcs
from tests.conftest import start_server, stop_server
from tests.models import tiny_folders
from tests.photos import locate

pytestmark = pytest.mark.long

PHOTO = locate("coffee.png")
ARRANGED = ("dtype", "memory_format", "batch_size", "lanes", "threads")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache):
    folder = cache / "tiny-vit"
    tiny_folders.write("vit", folder)
    added = run_fcs(cache, "models", "add", folder, "--name", "mine", "--sigma", "0.25")
    assert added.returncode == 0, added.stderr
    return "mine"


def serve(cache, model, ask):
    """The first lines of a server that tunes, and what `ask(server)` returns."""
    environment = {"FCS_CACHE_DIR": str(cache), "FCS_TUNE": "true"}
    server = start_server("--model", model, environment=environment)
    try:
        return "".join(server.log), ask(server)
    finally:
        stop_server(server)


def info_of(server):
    with server.client() as client:
        return client.get("/info").json()


@pytest.fixture(scope="module")
def first(cache, model):
    """The first start: its lines, `/info` of both doors, and a receipt."""

    def ask(server):
        channel, stub = server.stub()
        with channel, server.client() as client:
            files = {"inputs": PHOTO.read_bytes()}
            form = {"receipt": "true", "samples": "40", "selection_samples": "8"}
            answer = client.post("/embed", files=files, data=form).text
            (over_grpc,) = stub.Info(pb.InfoRequest()).models
            return client.get("/info").json(), over_grpc, answer

    return serve(cache, model, ask)


def test_both_doors_tell_the_arrangement_and_where_it_comes_from(first):
    lines, (info, over_grpc, _) = first
    (told,) = info["models"]
    assert told["tuning"]["source"] in {"measured", "package"}  # the latter on a busy machine
    assert told["tuning"]["ms_per_sample"] > 0
    assert {name: getattr(over_grpc, name) for name in ARRANGED} == {n: told[n] for n in ARRANGED}
    assert over_grpc.tuning.source == told["tuning"]["source"]
    assert over_grpc.tuning.ms_per_sample == told["tuning"]["ms_per_sample"]
    assert f"{told['dtype']}, {told['lanes']} lane" in lines
    assert "ms a sample" in lines


def test_later_starts_and_commands_follow_the_first(cache, model, first):
    _, (info, _, answer) = first
    (told,) = info["models"]
    lines, again = serve(cache, model, info_of)
    (later,) = again["models"]
    assert later["revision"] == told["revision"]
    assert {n: later[n] for n in ARRANGED} == {n: told[n] for n in ARRANGED}
    assert later["tuning"] == {**told["tuning"], "source": "cached"}
    assert "measured at an earlier start" in lines
    shown = run_fcs(cache, "models", "show", model, FCS_TUNE="true")
    assert "measured at an earlier start" in shown.stderr
    assert json.loads(shown.stdout)["name"] == model
    options = ("--samples", "40", "--selection-samples", "8", "--model", model)
    made = run_fcs(cache, "certify", PHOTO, *options, "--receipt", cache, FCS_TUNE="true")
    assert made.returncode == 0, made.stderr
    offline = json.loads((cache / f"{PHOTO.name}.receipt.json").read_text())
    assert offline["model"]["revision"] == json.loads(answer)["revision"]


def test_a_receipt_of_a_tuned_server_verifies_where_tuning_is_off(cache, first, tmp_path):
    _, (_, _, answer) = first
    saved = tmp_path / "response.json"
    saved.write_text(answer)
    ended = run_fcs(cache, "verify", saved, PHOTO, FCS_TUNE="false")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "every value agrees" in ended.stdout


def test_prepare_measures_and_what_was_not_measured_is_told(model, cache, tmp_path):
    folder = cache / "tiny-vit"
    shown = run_fcs(tmp_path, "models", "show", folder, FCS_TUNE="true")
    assert "not measured yet" in shown.stderr
    assert not (tmp_path / "tuning").exists()
    prepared = run_fcs(tmp_path, "models", "prepare", folder, FCS_TUNE="true")
    assert "ms a sample" in prepared.stdout
    assert len(list((tmp_path / "tuning").iterdir())) == 1
