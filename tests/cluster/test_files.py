"""The files of `cluster/`, each against the schema or the checker of what reads it; and what all of them have to hold."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
SCRIPTS = sorted(FOLDER.rglob("*.sh"))
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.31"


def documents(*names: str) -> list[dict[str, Any]]:
    paths = [FOLDER / "kubernetes" / name for name in names] or MANIFESTS
    return [one for path in paths for one in yaml.safe_load_all(path.read_text()) if one]


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    import sys

    program = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, f"{name} is a package of the dev extra"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_and_can_be_started(path: Path) -> None:
    done = tool("shellcheck", str(path))
    assert done.returncode == 0, done.stdout
    assert os.access(path, os.X_OK)


def test_the_image_is_clean() -> None:
    done = tool("hadolint", str(FOLDER / "Dockerfile"))
    assert done.returncode == 0, done.stdout
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "tracking" / "compose.yaml").read_text())
    return found


def compose_schema() -> dict[str, Any]:
    place = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def test_compose_file_is_valid_and_listens_on_loopback() -> None:
    jsonschema.validate(compose(), compose_schema())
    services = compose()["services"]
    assert services["mlflow"]["ports"] == ["${DMKD_BIND:-127.0.0.1}:5000:5000"]
    # The database and the object store are reached by the server alone.
    assert [name for name, service in services.items() if "ports" in service] == ["mlflow"]
    broken = compose() | {"servces": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, compose_schema())


def pods(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template in a document, with its place."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("template", "submitterPodTemplate") and isinstance(value, dict) and "spec" in value:
                yield f"{where}.{key}", value
            yield from pods(value, f"{where}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from pods(value, f"{where}[{number}]")


@pytest.mark.parametrize("document", documents(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_manifests_are_valid(document: dict[str, Any]) -> None:
    if document["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    for _, template in pods(document):
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)
        wrong = copy.deepcopy(whole)
        wrong["template"]["spec"]["containers"][0]["imag"] = "x"
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def ray_clusters() -> list[dict[str, Any]]:
    found = [one for one in documents() if one["kind"] == "RayCluster"]
    jobs = [one for one in documents() if one["kind"] == "RayJob"]
    return found + [{"metadata": one["metadata"], "spec": one["spec"]["rayClusterSpec"]} for one in jobs]


def test_ray_reads_the_clusters_of_kuberay() -> None:
    """Ray's own autoscaler turns them into its configuration, and checks that against its schema."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    assert len(ray_clusters()) == 2
    for cluster in ray_clusters():
        made = copy.deepcopy(cluster)
        made["metadata"]["namespace"] = "default"
        nodes = _derive_autoscaling_config_from_ray_cr(made)["available_node_types"]
        assert nodes["headgroup"]["resources"]["CPU"] == 0
        assert nodes["gpu"]["resources"]["CPU"] == 8
        assert nodes["gpu"]["resources"]["GPU"] == 1
        assert nodes["gpu"]["max_workers"] >= 2
        from importlib.metadata import version

        assert cluster["spec"]["rayVersion"] == version("ray")


def test_ray_reads_the_cluster_of_vms() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FOLDER / "aws.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config | {"head_node_typ": "head"}))


def test_every_node_starts_with_a_token_its_data_and_the_projects_root() -> None:
    for cluster in ray_clusters():
        for place, template in pods(cluster["spec"]):
            container = template["spec"]["containers"][0]
            told = {entry["name"]: entry for entry in container["env"]}
            assert told["RAY_AUTH_MODE"]["value"] == "token", place
            assert told["DMKD_DATA"]["value"] == "/data", place
            assert container["workingDir"] == "/dmkd", place
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data", "/results"}, place
    vms = yaml.safe_load((FOLDER / "aws.yaml").read_text())
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = vms[name][-1]
        assert start.startswith("cd /home/ubuntu/dmkd && ")
        assert "source .venv/bin/activate" in start
        assert "RAY_AUTH_MODE=token DMKD_DATA=" in start
    image = (FOLDER / "Dockerfile").read_text()
    for line in ("WORKDIR /dmkd", "RAY_AUTH_MODE=token", "DMKD_DATA=/data", "ENV DMKD_COMMIT=$DMKD_COMMIT"):
        assert line in image


def test_no_file_holds_a_secret() -> None:
    """Passwords, keys and tokens come from secrets or from the environment, never from a file of the project."""
    secret = re.compile(r"PASSWORD|SECRET|TOKEN$|ACCESS_KEY")
    for document in documents():
        for _, template in pods(document):
            for container in template["spec"]["containers"]:
                for entry in container.get("env", []):
                    if secret.search(entry["name"]):
                        assert set(entry) == {"name", "valueFrom"}, entry["name"]
    for name, service in compose()["services"].items():
        for key, value in service.get("environment", {}).items():
            if secret.search(key):
                assert str(value).startswith("${"), f"{name}: {key}"
    filled = [
        line
        for line in (FOLDER / "tracking" / "env.example").read_text().splitlines()
        if re.match(r"\w*(PASS|SECRET|KEY)\w*=.", line)
    ]
    assert filled == []


def start(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "DMKD_", "SLURM_"))}
    import sys

    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run([FOLDER / script, *arguments], env=kept | environment, capture_output=True, text=True, check=False)


def test_nothing_is_started_without_what_keeps_others_out(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    done = start("node.sh", "head", **home)
    assert done.returncode == 2
    assert "no token" in done.stderr
    done = start("node.sh", "worker", **home, RAY_AUTH_TOKEN="x")
    assert done.returncode == 2
    assert "needs the head's address" in done.stderr
    done = start("tracking/serve.sh", **home)
    assert done.returncode == 2
    assert "POSTGRES_PASSWORD is not set" in done.stderr
    done = start("slurm.sh", "sweeps/cars_s2sd.py", **home, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "not the project's root" in done.stderr
