"""The image, built by the Dockerfile's own commands in Debian roots, and served from, hardened."""

import base64
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib

import pytest

from tests.deploy.conftest import REPOSITORY
from tests.deploy.dockerfile import read_dockerfile
from tests.deploy.rootfs import Image, bookworm

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot and namespaces need root"),
]
BUILD = REPOSITORY / "build" / "deploy"
CACHE_FILE = "/app/cache/converted"
_POST = """
import sys, urllib.request
body, kind = sys.stdin.buffer.read(), {"content-type": "application/json"}
request = urllib.request.Request(sys.argv[1], body, kind)
sys.stdout.buffer.write(urllib.request.urlopen(request, timeout=120).read())
"""


@pytest.fixture(scope="module")
def image():
    _, stages = read_dockerfile(REPOSITORY / "Dockerfile")
    base = bookworm(BUILD / "bookworm")
    built = {}
    for name in ("build", "runtime"):
        shutil.rmtree(BUILD / name, ignore_errors=True)
        built[name] = Image(BUILD / name, base, REPOSITORY)
        built[name].run_stage(stages[name], built)
    built["runtime"].run_stage(stages["cpu"], built)
    yield built["runtime"]
    for name in built:
        shutil.rmtree(BUILD / name)


@pytest.fixture(scope="module")
def volumes(image):
    """New volumes as an engine makes them: with the owner and mode of the image's folder."""
    made = {}
    for number, path in enumerate(image.volumes):
        folder = BUILD / f"volume{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copystat(image.host(path), folder)
        status = image.host(path).stat()
        os.chown(folder, status.st_uid, status.st_gid)
        made[path] = folder
    yield made
    for folder in made.values():
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def service(image, volumes):
    process = image.start(volumes, FCS_TUNE="false")
    log = []
    for line in process.stdout:
        log.append(line)
        if "gRPC" in line:
            break
    else:
        raise AssertionError("".join(log))
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_the_health_check_passes_once_the_service_is_ready(image, service):
    port = image.environment.get("FCS_PROBE_PORT", "8000")  # without the setting REST has health
    done = image.execute(service, ["env", f"FCS_PROBE_PORT={port}", *image.command["HEALTHCHECK"]])
    assert done.returncode == 0, done.stderr


def test_the_health_check_fails_where_nothing_answers(image, service):
    elsewhere = ["env", "FCS_PROBE_PORT=9", *image.command["HEALTHCHECK"]]
    assert image.execute(service, elsewhere).returncode != 0


def test_a_picture_is_embedded_and_certified(service):
    body = {"inputs": [picture()], "samples": 100, "radii": [0.125], "target": None}
    done = subprocess.run(
        [
            *("nsenter", f"--target={service.pid}", "--net", sys.executable, "-c", _POST),
            "http://127.0.0.1:8000/embed",
        ],
        input=json.dumps(body).encode(),
        capture_output=True,
        check=True,
        timeout=180,
    )
    (item,) = json.loads(done.stdout)["data"]
    assert abs(sum(value**2 for value in item["embedding"]) - 1) < 1e-3
    assert item["certificate"]["samples"]["estimation"] == 100


def test_it_runs_without_root_or_capabilities_and_cannot_gain_them(image, service):
    status = image.execute(service, ["cat", f"/proc/{service.pid}/status"]).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert fields["Gid"].split() == ["10001"] * 4
    assert {int(fields[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")} == {0}
    assert fields["NoNewPrivs"] == "1"


def test_it_can_write_to_its_volumes_and_tmp_and_to_nothing_else(image, service):
    for folder in ("/app", "/app/service", "/app/cache", CACHE_FILE, "/", "/etc", "/var/tmp"):
        assert image.execute(service, ["touch", f"{folder}/x"]).returncode != 0, folder
    for folder in ("/tmp", *image.volumes):
        assert image.execute(service, ["touch", f"{folder}/x"]).returncode == 0, folder


def test_the_signing_key_stays_on_its_volume(service, volumes):
    (key,) = volumes["/app/cache/keys"].glob("*.pem")
    assert key.stat().st_mode & 0o777 == 0o600


def test_no_pip_is_left_in_the_image(image, service):
    assert image.execute(service, ["python", "-c", "import pip"]).returncode != 0
    assert image.execute(service, ["python", "-c", "import torch"]).returncode == 0


def test_a_model_cache_is_prepared_once_and_then_read_only(image, service, volumes):
    """What the Job of the component `model-cache` does, and then its pods."""
    settings = ["env", "FCS_CACHE_DIR=/models", "FCS_TUNE=false", "fcs", "models"]
    done = image.execute(service, [*settings, "prepare"])
    assert done.returncode == 0, done.stderr
    written = sorted(file for file in volumes["/models"].rglob("*") if file.is_file())
    assert any(file.suffix == ".safetensors" for file in written)
    times = {file: file.stat().st_mtime_ns for file in written}
    assert image.execute(service, [*settings, "prepare"]).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in written} == times


def test_a_termination_signal_ends_it_cleanly(service):
    service.terminate()
    assert service.wait(timeout=60) == 0


def picture():
    """A grey PNG of 32 x 32, base64."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(b"".join(b"\0" + bytes([128] * 96) for _ in range(32)))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()
