"""Rules, their unit tests, the dashboard: valid, and about metrics that the service exports."""

import json
import re

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from tests.deploy.conftest import DEPLOY, REPOSITORY, run

RULES = DEPLOY / "monitoring" / "rules.yaml"
TESTS = REPOSITORY / "tests" / "deploy" / "rules_test.yaml"
FROM_PROMETHEUS = {"up"}


def rules():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    return json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())["panels"]


def expressions():
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def exported():
    """Names of samples and of their labels, each with a labelled child."""
    metrics = Metrics("0")
    metrics.requests.labels(route="/embed", code="200").inc()
    metrics.request_seconds.labels(route="/embed").observe(1)
    families = text_string_to_metric_families(metrics.render().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def as_prometheus_sees_it(expression):
    return re.sub(r"\$__rate_interval", "5m", expression)


def selectors(node):
    """Every vector selector of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        return [node]
    found = []
    for name in ("expr", "lhs", "rhs", "param", "vector_selector", "vs"):
        if (inner := getattr(node, name, None)) is not None and not isinstance(inner, (str, float)):
            found += selectors(inner)
    for inner in getattr(node, "args", None) or []:
        found += selectors(inner)
    return found


def known(expression):
    names = {rule["record"] for rule in rules() if "record" in rule}
    samples = exported()
    for selector in selectors(promql_parser.parse(as_prometheus_sees_it(expression))):
        assert selector.name in samples or selector.name in names | FROM_PROMETHEUS, (
            f"{selector.name} is not exported: {expression}"
        )
        if selector.name in samples:
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert labels <= samples[selector.name] | {"job", "instance", "namespace"}, expression
    return True


def test_promtool_accepts_rules_and_configuration():
    for kind, file in (("rules", RULES), ("config", DEPLOY / "monitoring" / "prometheus.yml")):
        done = run("promtool", "check", kind, str(file))
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_unit_test_of_the_rules_passes():
    done = run("promtool", "test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_firing_and_not_firing():
    cases = [
        case
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_every_alert_is_in_the_runbook():
    text = (REPOSITORY / "docs" / "deploy.md").read_text()
    missing = [
        rule["alert"] for rule in rules() if "alert" in rule and f"`{rule['alert']}`" not in text
    ]
    assert missing == []


def test_rules_name_only_exported_metrics_and_labels():
    assert all(known(rule["expr"]) for rule in rules())


def test_the_dashboard_names_only_exported_metrics_and_labels():
    assert len(expressions()) > 30
    assert all(known(expression) for expression in expressions())


def test_a_metric_that_nobody_exports_is_noticed():
    for wrong in ("sum(rate(fcs_no_such_total[5m])) / 2", 'fcs_bound_count{no_such="1"}'):
        try:
            known(wrong)
        except AssertionError:
            continue
        raise AssertionError(wrong)


def test_prometheus_parses_every_expression_of_the_dashboard(tmp_path):
    groups = [
        {"record": f"panel:{number}", "expr": as_prometheus_sees_it(expression)}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": groups}]}))
    done = run("promtool", "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_shows_every_subject():
    shown = " ".join(expressions())
    for name in (
        *("fcs_bound_bucket", "fcs_samples_total", "fcs_queue_seconds", "fcs_batch_fill_ratio"),
        *("fcs_request_seconds", "fcs_rejections_total", "fcs_device_seconds_total"),
        *("fcs_audit_records_total", "fcs_model_reloads_total"),
    ):
        assert name in shown
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
