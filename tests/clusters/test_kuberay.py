"""Covers clusters/kuberay: what `kubectl apply -k` would send, against KubeRay's schemas, against
Kubernetes' own and as Ray's autoscaler reads it.

The overlays are built by kubectl or kustomize, whichever is on the PATH. KUBERAY_SCHEMAS names a
folder with rayclusters.v1.schema.json and rayjobs.v1.schema.json. What is missing is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml

from engine.placement.cluster import MIX_LABEL, TRAIN_LABEL

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters/kuberay"
OVERLAYS = ("small", "large", "small-job", "large-job")
SCHEMA_FILES = {"RayCluster": "rayclusters.v1.schema.json", "RayJob": "rayjobs.v1.schema.json"}

if shutil.which("kubectl"):
    BUILD = ["kubectl", "kustomize"]
elif shutil.which("kustomize"):
    BUILD = ["kustomize", "build"]
else:
    pytest.skip("neither kubectl nor kustomize is on the PATH", allow_module_level=True)


def build(folder: Path) -> list[dict]:
    result = subprocess.run([*BUILD, folder], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


@pytest.fixture(scope="module")
def built() -> dict[str, list[dict]]:
    return {name: build(FOLDER / name) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def resources(request, built) -> list[dict]:
    return built[request.param]


def of_kind(resources: list[dict], kind: str) -> dict:
    found = [one for one in resources if one["kind"] == kind]
    assert len(found) == 1, [one["kind"] for one in resources]
    return found[0]


def cluster_of(resources: list[dict]) -> dict:
    """The cluster's spec, in a RayCluster or in a RayJob."""
    if any(one["kind"] == "RayJob" for one in resources):
        return of_kind(resources, "RayJob")["spec"]["rayClusterSpec"]
    return of_kind(resources, "RayCluster")["spec"]


def groups_of(resources: list[dict]) -> dict[str, dict]:
    return {group["groupName"]: group for group in cluster_of(resources)["workerGroupSpecs"]}


def pods_of(resources: list[dict]) -> dict[str, dict]:
    cluster = cluster_of(resources)
    pods = {name: group["template"]["spec"] for name, group in groups_of(resources).items()}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **pods}


def unknown_keys(value: object, schema: dict, path: str = "") -> list[str]:
    """Keys that the schema does not name: the API server would drop them without a word."""
    found = []
    if isinstance(value, dict) and schema.get("properties"):
        for key, inner in value.items():
            here = f"{path}.{key}"
            if key in schema["properties"]:
                found += unknown_keys(inner, schema["properties"][key], here)
            elif not isinstance(schema.get("additionalProperties"), dict):
                found.append(here)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            found += unknown_keys(inner, schema.get("items", {}), f"{path}[{index}]")
    return found


def test_custom_resources_follow_kuberays_schemas(resources):
    folder = os.environ.get("KUBERAY_SCHEMAS")
    if not folder:
        pytest.skip("KUBERAY_SCHEMAS names no folder with KubeRay's schemas")
    checked = 0
    for resource in resources:
        if resource["kind"] not in SCHEMA_FILES:
            continue
        schema = json.loads((Path(folder) / SCHEMA_FILES[resource["kind"]]).read_text())
        jsonschema.Draft7Validator(schema).validate(resource)
        spec = {"spec": resource["spec"]}
        assert not unknown_keys(spec, schema)
        checked += 1
    assert checked == 1


def test_a_misspelled_key_would_be_seen():
    schema = {"properties": {"spec": {"properties": {"labels": {"type": "object"}}}}}
    assert unknown_keys({"spec": {"lables": {}}}, schema) == [".spec.lables"]


def test_other_resources_follow_kubernetes_schemas(resources):
    checker = pytest.importorskip("kubernetes_validate")
    for resource in resources:
        if not resource["apiVersion"].startswith(("ray.io", "monitoring.coreos.com")):
            checker.validate(resource, "1.31", strict=True)


def test_pod_templates_follow_kubernetes_schemas(resources):
    """KubeRay's schema takes pods as they are; this one knows their fields."""
    checker = pytest.importorskip("kubernetes_validate")
    for name, spec in pods_of(resources).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        checker.validate(pod, "1.31", strict=True)


def test_groups_are_labeled_as_the_engine_looks_for_them(resources):
    groups = groups_of(resources)
    assert groups["train"]["labels"] == TRAIN_LABEL
    assert groups["mix-spot"]["labels"] == MIX_LABEL
    assert groups["mix-on-demand"]["labels"] == MIX_LABEL
    assert all("labels" not in group["rayStartParams"] for group in groups.values())


def test_ray_and_the_image_are_of_one_version(resources):
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    assert cluster_of(resources)["rayVersion"] == pins["ray"] == version("ray")
    images = {c["image"] for pod in pods_of(resources).values() for c in pod["containers"]}
    assert images == {"registry.example.com/diffmix:0.1.0"}


def test_the_head_does_no_work_and_the_autoscaler_is_v2(resources):
    cluster = cluster_of(resources)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["authOptions"] == {"mode": "token"}


def test_all_groups_come_from_nothing(resources):
    for group in groups_of(resources).values():
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        assert group["maxReplicas"] > 0


def test_spot_pods_ask_for_spot_nodes_and_the_others_for_none(resources):
    pods = pods_of(resources)

    def terms(name: str) -> list[dict]:
        node = pods[name]["affinity"]["nodeAffinity"]
        return node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    spot = [e for term in terms("mix-spot") for e in term["matchExpressions"]]
    assert {e["operator"] for e in spot} == {"In"}
    assert len(terms("mix-spot")) == len(spot)  # any of them
    for name in ("train", "mix-on-demand"):
        assert len(terms(name)) == 1  # all of them
        none = terms(name)[0]["matchExpressions"]
        assert {e["operator"] for e in none} == {"NotIn"}
        assert {e["key"] for e in none} == {e["key"] for e in spot}
        assert {t["key"] for t in pods[name]["tolerations"]} == {"nvidia.com/gpu"}
    tolerated = {t["key"] for t in pods["mix-spot"]["tolerations"]}
    assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= tolerated


def test_spot_is_asked_for_first_and_given_up_in_minutes(resources):
    groups = groups_of(resources)
    assert groups["mix-spot"]["priority"] > groups["mix-on-demand"]["priority"]
    env = {e["name"]: e["value"] for e in cluster_of(resources)["autoscalerOptions"]["env"]}
    assert 300 <= int(env["RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"]) <= 1800
    from ray.autoscaler.v2.instance_manager import config

    assert "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S" in Path(config.__file__).read_text()


def test_ray_reads_the_groups_as_they_are_meant(resources):
    """The function by which the autoscaler in the head's pod reads its RayCluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    resource = {
        "metadata": {"name": "diffmix", "namespace": "diffmix"},
        "spec": cluster_of(resources),
    }
    config = _derive_autoscaling_config_from_ray_cr(resource)
    groups = config["available_node_types"]
    assert groups["headgroup"]["resources"]["CPU"] == 0
    assert groups["train"]["labels"] == TRAIN_LABEL
    assert groups["mix-spot"]["labels"] == MIX_LABEL
    assert groups["mix-spot"]["priority"] > groups["mix-on-demand"]["priority"]
    assert all(groups[name]["resources"]["GPU"] for name in groups if name != "headgroup")
    # The readers beside a mixer or a train worker need CPUs of the same node.
    assert all(groups[name]["resources"]["CPU"] > 4 for name in groups if name != "headgroup")
    assert config["idle_timeout_minutes"] == 3


def test_pods_have_no_rights_and_share_a_disk(resources):
    for name, pod in pods_of(resources).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        container = pod["containers"][0]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {"/data", "/dev/shm"} <= set(mounts)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claim = volumes[mounts["/data"]]["persistentVolumeClaim"]["claimName"]
        assert claim == of_kind(resources, "PersistentVolumeClaim")["metadata"]["name"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_priority_classes_exist_and_train_comes_first(resources):
    classes = {r["metadata"]["name"]: r for r in resources if r["kind"] == "PriorityClass"}
    assert {pod["priorityClassName"] for pod in pods_of(resources).values()} == set(classes)
    assert classes["diffmix-train"]["value"] > classes["diffmix-mix"]["value"]


def test_nothing_listens_to_the_world(resources):
    assert cluster_of(resources)["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not {one["kind"] for one in resources} & {"Ingress", "Service", "Gateway"}


def test_a_job_is_retried_on_one_run_folder_and_takes_its_cluster_away(built):
    for name in ("small-job", "large-job"):
        job = of_kind(built[name], "RayJob")["spec"]
        assert job["backoffLimit"] > 0
        assert job["submitterConfig"]["backoffLimit"] == 0
        assert job["shutdownAfterJobFinishes"] is True
        assert job["activeDeadlineSeconds"] > 0
        words = job["entrypoint"].split()
        assert words[:3] == ["python", "-m", "jobs.run"]
        assert (ROOT / words[words.index("--config") + 1]).is_file()
        assert words[words.index("--out") + 1].startswith("/data/")
        assert yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
        plain = of_kind(built[name.removesuffix("-job")], "RayCluster")["spec"]
        assert job["rayClusterSpec"] == plain


def test_the_large_cluster_survives_its_head_and_is_measured(built):
    assert "gcsFaultToleranceOptions" not in cluster_of(built["small"])
    redis = cluster_of(built["large"])["gcsFaultToleranceOptions"]
    assert redis["redisAddress"].startswith("redis://")
    assert "value" not in redis["redisPassword"]  # a secret, never in a file
    monitor = of_kind(built["large"], "PodMonitor")["spec"]
    port = monitor["podMetricsEndpoints"][0]["port"]
    cluster = cluster_of(built["large"])
    templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for template in (one["template"] for one in templates):
        assert template["metadata"]["labels"] == monitor["selector"]["matchLabels"]
        ports = template["spec"]["containers"][0]["ports"]
        assert {"name": port, "containerPort": 8080} in ports


def test_a_bucket_takes_the_disks_place(tmp_path):
    """options/bucket is for overlays of one's own, such as this one."""
    shutil.copytree(FOLDER, tmp_path / "kuberay")
    overlay = tmp_path / "kuberay/mine"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        "resources: [../base]\ncomponents: [../options/bucket]\n"
    )
    resources = build(overlay)
    assert "PersistentVolumeClaim" not in {one["kind"] for one in resources}
    account = of_kind(resources, "ServiceAccount")["metadata"]["name"]
    for pod in pods_of(resources).values():
        assert pod["serviceAccountName"] == account
        assert pod["volumes"][0] == {"name": "data", "emptyDir": {}}
