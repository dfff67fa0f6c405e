"""Tools of `make test-deploy`'s environment, and everything that is rendered, rendered once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helm_python import Chart

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
OVERLAYS = ("cpu", "gpu", "keda", "monitoring")

# Everything at once, as an operator's own kustomization and as values of the chart.
ALL_COMPONENTS = ["keda", "gpu", "secured", "model-cache"]
HELM_VALUES = {
    "cpu": {},
    "gpu": {"gpu": {"enabled": True}},
    "keda": {"autoscale": {"enabled": False}, "keda": {"enabled": True}},
    "monitoring": {"monitoring": {"enabled": True}},
    "all": {
        "autoscale": {"enabled": False},
        "image": {"tag": "0.1.0"},
        **{
            name: {"enabled": True}
            for name in ("keda", "gpu", "secured", "modelCache", "monitoring")
        },
    },
}


def run(tool, *arguments, environment=None, cwd=REPOSITORY):
    """A tool beside this Python, else one of Debian's."""
    beside = Path(sys.executable).with_name(tool)
    found = beside if beside.exists() else shutil.which(tool)
    assert found, f"{tool} is not installed; make test-deploy says where it comes from"
    return subprocess.run(
        [found, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=240,
    )


def kustomized(folder):
    done = run("kubectl", "kustomize", str(folder))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def helmed(values, name="fcs-serve", namespace="fcs-serve"):
    with Chart.load(str(DEPLOY / "helm")) as chart:
        files = chart.render(values=values, name=name, namespace=namespace).values()
    return [document for text in files for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="session")
def own_overlay():
    """Base and all components together: kustomize wants them below one root."""
    folder = DEPLOY / "kustomize" / "overlays" / ".test"
    folder.mkdir(exist_ok=True)
    components = [*(f"../../components/{name}" for name in ALL_COMPONENTS), "../../../monitoring"]
    text = yaml.safe_dump({"resources": ["../../base"], "components": components})
    (folder / "kustomization.yaml").write_text(text)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def rendered(own_overlay):
    """Objects of kustomize by overlay; `all` is base and all components."""
    folders = {name: DEPLOY / "kustomize" / "overlays" / name for name in OVERLAYS}
    return {name: kustomized(folder) for name, folder in (folders | {"all": own_overlay}).items()}


@pytest.fixture(scope="session")
def charted():
    """Objects of the chart by the same names."""
    return {name: helmed(values) for name, values in HELM_VALUES.items()}


def one(objects, kind, name="fcs-serve"):
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def container(objects):
    return one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]


def environment_of(objects):
    return {item["name"]: item["value"] for item in container(objects)["env"]}
