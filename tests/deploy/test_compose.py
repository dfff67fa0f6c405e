"""The compose files, resolved by the Compose client, which checks them against its schema."""

import os
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import REPOSITORY, run

PLAIN = ("--file", "docker-compose.yml")
SECURE = (*PLAIN, "--file", "docker-compose.secure.yml")


def resolved(*files, **variables):
    done = run("docker-compose", *files, "config", environment=os.environ | variables)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


@pytest.fixture(scope="module")
def services():
    return resolved(*PLAIN)


def test_every_service_is_hardened_limited_and_of_this_machine_alone(services):
    assert services.keys() == {"fcs-serve", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["tmpfs"] == ["/tmp"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert service["ports"]
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}


def test_every_service_has_a_health_check(services):
    assert "HEALTHCHECK" in (REPOSITORY / "Dockerfile").read_text()  # that of fcs-serve
    assert all("healthcheck" in services[name] for name in ("prometheus", "grafana"))


def test_every_mounted_file_is_there_and_read_only(services):
    mounts = [v for s in services.values() for v in s["volumes"] if v["type"] == "bind"]
    assert len(mounts) == 5
    for mount in mounts:
        assert Path(mount["source"]).is_file()
        assert mount["read_only"] is True


def test_prometheus_scrapes_the_probe_port_by_the_services_name(services):
    text = (REPOSITORY / "deploy/monitoring/prometheus.yml").read_text()
    (scrape,) = yaml.safe_load(text)["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name in services
    assert f" {port} " in (REPOSITORY / "Dockerfile").read_text()


def test_grafana_finds_prometheus_and_the_dashboard_its_folder(services):
    folder = REPOSITORY / "deploy/monitoring/grafana"
    (source,) = yaml.safe_load((folder / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards.yaml").read_text())["providers"]
    targets = {Path(volume["target"]) for volume in services["grafana"]["volumes"]}
    assert Path(provider["options"]["path"]) / "fcs-serve.json" in targets


def test_keys_and_tls_come_from_a_read_only_folder_that_must_be_named():
    secure = resolved(*SECURE, FCS_SECRETS="/tmp")["fcs-serve"]
    (mount,) = [v for v in secure["volumes"] if v["target"] == "/etc/fcs"]
    assert mount["read_only"] is True
    named = [v for k, v in secure["environment"].items() if k.startswith(("FCS_API", "FCS_TLS"))]
    assert len(named) == 3
    assert all(value.startswith("/etc/fcs/") for value in named)
    without = {k: v for k, v in os.environ.items() if k != "FCS_SECRETS"}
    refused = run("docker-compose", *SECURE, "config", environment=without)
    assert refused.returncode != 0
    assert "api-keys.toml" in refused.stderr


def test_the_client_refuses_what_its_schema_does_not_know(tmp_path):
    file = tmp_path / "docker-compose.yml"
    file.write_text("services: {one: {image: a, read_onyl: true}}")
    refused = run("docker-compose", "--file", str(file), "config")
    assert refused.returncode != 0
    assert "read_onyl" in refused.stderr
