"""Kubernetes objects: schemas, policies, and the sums and ports that hold them together."""

import json
import re

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from tests.deploy.conftest import (
    DEPLOY,
    HELM_VALUES,
    OVERLAYS,
    REPOSITORY,
    container,
    environment_of,
    helmed,
    one,
    run,
)

SERVER = REPOSITORY / "service" / "server.py"
NAMES = (*OVERLAYS, "all")
CUSTOM = {
    "PrometheusRule": PrometheusRule,
    "ScaledObject": ScaledObject,
    "ServiceMonitor": ServiceMonitor,
}


def assert_valid(document):
    if (model := CUSTOM.get(document["kind"])) is None:
        kubernetes_validate.validate(document, "1.37", strict=True)
    else:  # these models overlook unknown fields, which a round trip then lacks
        parsed = model.model_validate(document)
        assert parsed.model_dump(by_alias=True, exclude_unset=True, mode="json") == document


@pytest.mark.parametrize("name", NAMES)
def test_every_object_fits_its_schema(rendered, charted, name):
    for document in rendered[name] + charted[name]:
        assert_valid(document)


def test_a_misspelt_field_fits_no_schema(rendered):
    for kind in ("Deployment", "ScaledObject", "ServiceMonitor"):
        document = json.loads(json.dumps(one(rendered["all"], kind)))
        document["spec"]["replica"] = 3
        with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
            assert_valid(document)


@pytest.mark.parametrize("name", NAMES)
def test_no_policy_of_checkov_fails(rendered, charted, name, tmp_path):
    for source, objects in (("kustomize", rendered), ("helm", charted)):
        file = tmp_path / f"{source}.yaml"
        file.write_text(yaml.safe_dump_all(objects[name]))
        done = run(
            *("checkov", "--file", str(file), "--framework", "kubernetes", "--output", "json"),
            *("--quiet", "--skip-download"),
            cwd=tmp_path,
        )
        report = json.loads(done.stdout)
        failed = [check["check_id"] for check in report["results"]["failed_checks"]]
        assert report["summary"]["passed"] > 50
        assert failed == []
        reasons = [
            check["check_result"]["suppress_comment"]
            for check in report["results"].get("skipped_checks", [])
        ]
        assert all(reasons)


@pytest.mark.parametrize("name", NAMES)
def test_the_chart_is_what_kustomize_renders(rendered, charted, name):
    def by_name(objects):
        found = {(o["kind"], o["metadata"]["name"]): canonical(o) for o in objects}
        found.pop(("Namespace", "fcs-serve"), None)  # helm's --create-namespace
        return found

    expected, found = by_name(rendered[name]), by_name(charted[name])
    assert found.keys() == expected.keys()
    for key, document in expected.items():
        assert found[key] == document, key


def canonical(value):
    """Lists of named things in one order: kustomize's patches put theirs first."""
    if isinstance(value, dict):
        return {key: canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        inner = [canonical(item) for item in value]
        named = inner and all(isinstance(item, dict) and "name" in item for item in inner)
        return sorted(inner, key=lambda item: item["name"]) if named else inner
    return value


def test_the_chart_follows_its_release_and_refuses_two_autoscalers():
    objects = helmed(HELM_VALUES["all"], name="other", namespace="elsewhere")
    for document in objects:
        assert document["metadata"]["name"].startswith("other")
        assert document["metadata"]["namespace"] == "elsewhere"
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "other"
    pods = one(objects, "Deployment", "other")["spec"]["template"]["metadata"]["labels"]
    for document in objects:
        if document["kind"] == "Service":
            assert document["spec"]["selector"].items() <= pods.items()
    with pytest.raises(Exception, match=r"autoscale.enabled=false"):
        helmed({"keda": {"enabled": True}})


def test_the_charts_settings_and_digest_reach_the_container():
    objects = helmed({"settings": {"max_samples": 5000}, "image": {"digest": "sha256:" + "0" * 64}})
    assert environment_of(objects)["FCS_MAX_SAMPLES"] == "5000"
    assert container(objects)["image"] == "fcs-serve@sha256:" + "0" * 64


@pytest.mark.parametrize("name", NAMES)
def test_the_grace_is_longer_than_pause_drain_and_doors_together(rendered, name):
    pod = one(rendered[name], "Deployment")["spec"]["template"]["spec"]
    command, pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    doors = re.search(r"^_GRACE_S = (\S+)$", SERVER.read_text(), re.MULTILINE)[1]
    drain = int(environment_of(rendered[name])["FCS_DRAIN_MS"]) / 1000
    assert command == "sleep"
    assert pod["terminationGracePeriodSeconds"] > float(pause) + drain + float(doors)


@pytest.mark.parametrize("name", NAMES)
def test_probes_and_scrapes_go_to_the_plain_port_alone(rendered, name):
    served = container(rendered[name])
    ports = {port["name"]: port["containerPort"] for port in served["ports"]}
    assert ports == {"rest": 8000, "grpc": 50051, "probe": 8080}
    assert environment_of(rendered[name])["FCS_PROBE_PORT"] == str(ports["probe"])
    for kind, path in (("startup", "startup"), ("readiness", "ready"), ("liveness", "live")):
        assert served[f"{kind}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "probe"}
    for service in (o for o in rendered[name] if o["kind"] == "Service"):
        opened = {port["targetPort"] for port in service["spec"]["ports"]}
        assert ("probe" in opened) == service["metadata"]["name"].endswith("-metrics")


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_hardened(rendered, name):
    pods = [
        o["spec"]["template"]["spec"] for o in rendered[name] if o["kind"] in {"Deployment", "Job"}
    ]
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for served in pod["containers"]:
            context = served["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", NAMES)
def test_one_thing_scales_and_replicas_are_left_to_it(rendered, name):
    scalers = [
        o["kind"]
        for o in rendered[name]
        if o["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}
    ]
    assert len(scalers) == 1
    assert "replicas" not in one(rendered[name], "Deployment")["spec"]


def test_selectors_find_the_servers_and_never_the_job(rendered):
    server = one(rendered["all"], "Deployment")["spec"]["template"]["metadata"]["labels"]
    job = one(rendered["all"], "Job", "fcs-serve-prepare")["spec"]["template"]["metadata"]["labels"]
    selectors = [o["spec"]["selector"] for o in rendered["all"] if o["kind"] == "Service"]
    selectors.append(one(rendered["all"], "PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    selectors.append(one(rendered["all"], "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert selector.items() <= server.items()
        assert not selector.items() <= job.items()


def test_the_service_monitor_finds_the_service_of_metrics(rendered):
    monitor = one(rendered["monitoring"], "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    found = [
        o
        for o in rendered["monitoring"]
        if o["kind"] == "Service" and wanted.items() <= o["metadata"]["labels"].items()
    ]
    assert [o["metadata"]["name"] for o in found] == ["fcs-serve-metrics"]
    ports = {port["name"] for port in found[0]["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    assert found[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "fcs-serve"


def test_egress_is_denied_but_for_names(rendered):
    (rule,) = one(rendered["all"], "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} == {53}


def test_the_operators_rule_holds_the_very_rules(rendered):
    rule = one(rendered["monitoring"], "PrometheusRule")["spec"]
    assert rule == yaml.safe_load((DEPLOY / "monitoring" / "rules.yaml").read_text())


def test_the_adapters_metric_is_the_autoscalers(rendered):
    (rule,) = yaml.safe_load((DEPLOY / "monitoring" / "prometheus-adapter.yaml").read_text())[
        "rules"
    ]["custom"]
    (metric,) = one(rendered["cpu"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"] == "fcs_pending_samples"
    assert rule["seriesQuery"].startswith("fcs_pending_samples{")


def test_secrets_are_optional_until_a_setting_names_them(rendered):
    def secrets(name):
        pod = one(rendered[name], "Deployment")["spec"]["template"]["spec"]
        return [v["secret"] for v in pod["volumes"] if "secret" in v]

    assert len(secrets("cpu")) == 4
    assert all(secret["optional"] for secret in secrets("cpu"))
    mounted = {m["mountPath"] for m in container(rendered["all"])["volumeMounts"]}
    plain, secured = environment_of(rendered["cpu"]), environment_of(rendered["all"])
    added = {name: value for name, value in secured.items() if value.startswith("/etc/fcs/")}
    assert added.keys() == {"FCS_API_KEYS", "FCS_TLS_CERTIFICATE", "FCS_TLS_KEY", "FCS_SIGNING_KEY"}
    assert not added.keys() & plain.keys()
    assert all(value.rsplit("/", 1)[0] in mounted for value in added.values())
