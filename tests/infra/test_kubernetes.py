"""Manifests for Kubernetes: valid by the schemas of Kubernetes 1.37, least privilege, secrets by reference, one story.

The custom resources are checked against the names of fields that their CRDs have (KubeRay 1.7, Kueue 0.19); the whole
CRDs and the rendered charts are checked by hand, see docs/log.md.
"""

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
CORE_VERSION = "1.37"
Fields = dict[str, Any]
POD: Fields = {"metadata": None, "spec": None}
GROUP: Fields = {"rayStartParams": None, "template": POD}
CUSTOM: dict[str, Fields] = {
    "ray.io/v1 RayCluster": {
        "rayVersion": None,
        "enableInTreeAutoscaling": None,
        "authOptions": {"mode": None, "secretName": None},
        "autoscalerOptions": {
            **{"version": None, "upscalingMode": None, "idleTimeoutSeconds": None},
            **{"resources": None, "securityContext": None},
        },
        "headGroupSpec": GROUP,
        "workerGroupSpecs": {**GROUP, "groupName": None, "replicas": None, "minReplicas": None, "maxReplicas": None},
    },
    "kueue.x-k8s.io/v1beta2 ResourceFlavor": {"nodeLabels": None, "tolerations": None},
    "kueue.x-k8s.io/v1beta2 ClusterQueue": {
        "namespaceSelector": None,
        "queueingStrategy": None,
        "preemption": {"withinClusterQueue": None},
        "resourceGroups": {
            "coveredResources": None,
            "flavors": {"name": None, "resources": {"name": None, "nominalQuota": None}},
        },
    },
    "kueue.x-k8s.io/v1beta2 LocalQueue": {"clusterQueue": None},
    "kueue.x-k8s.io/v1beta2 WorkloadPriorityClass": {},
}
"""Fields below `spec` of the custom resources; None for a field whose contents are not described here."""
IN_THE_CLUSTER = ("ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass", "Namespace")
"""Kinds without a namespace, which only an administrator may create."""


def read_folder(folder: Path) -> list[Fields]:
    """Return every object of a kustomization; its list of resources must be complete."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    return [item for name in listed for item in yaml.safe_load_all((folder / name).read_text())]


OBJECTS = [*read_folder(FOLDER), *read_folder(FOLDER / "cluster")]
AIRFLOW, MLFLOW = (yaml.safe_load((FOLDER / "values" / f"{name}.yaml").read_text()) for name in ("airflow", "mlflow"))


def of_kind(kind: str) -> list[Fields]:
    return [item for item in OBJECTS if item["kind"] == kind]


def pods() -> Iterator[tuple[str, Fields]]:
    """Name and template of each pod that the manifests make."""
    for item in of_kind("Deployment"):
        yield item["metadata"]["name"], item["spec"]["template"]
    (ray,) = of_kind("RayCluster")
    yield "ray-head", ray["spec"]["headGroupSpec"]["template"]
    for group in ray["spec"]["workerGroupSpecs"]:
        yield f"ray-{group['groupName']}", group["template"]


PODS = dict(pods())
AIRFLOW_PODS = {
    component: {"tier": "airflow", "component": component, "release": "airflow"}
    for component in (
        *("api-server", "scheduler", "dag-processor", "triggerer", "worker", "redis"),
        *("run-airflow-migrations", "create-user-job"),
    )
}
"""Labels that Airflow's chart gives to its pods."""
OTHER_PODS = {
    "mlflow": {"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/instance": "mlflow"},
    "postgres": {"app.kubernetes.io/name": "postgres"},
}
LABELS = {**{name: pod["metadata"]["labels"] for name, pod in PODS.items()}, **AIRFLOW_PODS, **OTHER_PODS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_objects_are_valid(item: Fields) -> None:
    kind = f"{item['apiVersion']} {item['kind']}"
    if kind not in CUSTOM:
        kubernetes_validate.validate(item, CORE_VERSION, strict=True)
    else:
        assert unknown_fields(item.get("spec", {}), CUSTOM[kind]) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PODS)
def test_pods_are_valid(name: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", **PODS[name]}
    kubernetes_validate.validate({**pod, "metadata": {"name": name, **pod["metadata"]}}, CORE_VERSION, strict=True)


def test_a_misspelt_field_is_found() -> None:
    (ray,) = of_kind("RayCluster")
    spec = {**ray["spec"], "workerGroupSpecs": [{"groupName": "gpu", "minReplica": 0}]}
    assert unknown_fields(spec, CUSTOM["ray.io/v1 RayCluster"]) == ["workerGroupSpecs.minReplica"]


def unknown_fields(value: Any, known: Fields | None, path: str = "") -> list[str]:
    """List the fields of an object, or of the objects of a list, that are not known."""
    if known is None:
        return []
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item, known, path)]
    found = [f"{path}{name}" for name in value if name not in known]
    return found + [
        name for key in value if key in known for name in unknown_fields(value[key], known[key], f"{path}{key}.")
    ]


def test_only_the_folder_of_the_administrator_has_objects_without_a_namespace() -> None:
    assert {item["kind"] for item in read_folder(FOLDER)}.isdisjoint(IN_THE_CLUSTER)
    assert {item["kind"] for item in read_folder(FOLDER / "cluster")} <= set(IN_THE_CLUSTER)


@pytest.mark.parametrize("name", PODS)
def test_pods_have_no_privilege_and_stated_needs(name: str) -> None:
    spec = PODS[name]["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["terminationGracePeriodSeconds"] >= 60, "a checkpoint needs the time"
    assert spec["automountServiceAccountToken"] is (name == "ray-head"), "only the autoscaler asks Kubernetes"
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys() & container["resources"]["limits"].keys()
        assert container["readinessProbe"]


def test_gpu_workers_get_notice_before_they_stop() -> None:
    spec = PODS["ray-gpu"]["spec"]
    (worker,) = spec["containers"]
    notice = worker["lifecycle"]["preStop"]["exec"]["command"][-1]
    seconds = [int(number) for number in re.findall(r"(?:deadline-remaining-seconds|sleep) (\d+)", notice)]
    assert "DRAIN_NODE_REASON_PREEMPTION" in notice
    assert len(seconds) == 2
    assert 60 <= max(seconds) < spec["terminationGracePeriodSeconds"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == worker["resources"]["requests"]["nvidia.com/gpu"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_the_ray_cluster_has_a_token_a_queue_and_room_in_it() -> None:
    (ray,) = of_kind("RayCluster")
    (queue,) = of_kind("ClusterQueue")
    (local,) = of_kind("LocalQueue")
    assert ray["spec"]["authOptions"]["mode"] == "token"
    assert ray["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (priority,) = of_kind("WorkloadPriorityClass")
    assert ray["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == priority["metadata"]["name"]
    flavors = [flavor for group in queue["spec"]["resourceGroups"] for flavor in group["flavors"]]
    assert {flavor["name"] for flavor in flavors} == {item["metadata"]["name"] for item in of_kind("ResourceFlavor")}
    (group,) = ray["spec"]["workerGroupSpecs"]
    quota = {entry["name"]: entry["nominalQuota"] for entry in flavors[0]["resources"]}
    (worker,) = group["template"]["spec"]["containers"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for name, quantity in worker["resources"]["requests"].items():
        if name in quota:
            assert group["maxReplicas"] * amount(quantity) <= amount(quota[name]), name


def amount(quantity: str | int) -> int:
    """Return a whole quantity of Kubernetes; gibibytes stay gibibytes."""
    return int(str(quantity).removesuffix("Gi"))


def selected(selector: Fields) -> set[str]:
    """Names of the known pods that a selector matches."""
    return {name for name, labels in LABELS.items() if matches(selector, labels)}


def matches(selector: Fields, labels: dict[str, str]) -> bool:
    needed = [
        {"key": key, "operator": "In", "values": [value]} for key, value in selector.get("matchLabels", {}).items()
    ]
    return all(labels.get(need["key"]) in need["values"] for need in (*needed, *selector.get("matchExpressions", ())))


def may_reach(target: str, port: int | None = None) -> set[str]:
    """Names of the pods, and `namespace/NAME`, that the policies let reach a pod."""
    found: set[str] = set()
    for policy in of_kind("NetworkPolicy"):
        if target not in selected(policy["spec"]["podSelector"]):
            continue
        for rule in policy["spec"].get("ingress", ()):
            if port is None or "ports" not in rule or port in [entry["port"] for entry in rule["ports"]]:
                for source in rule["from"]:
                    found |= selected(source["podSelector"]) if "podSelector" in source else set()
                    if "namespaceSelector" in source:
                        found |= {f"namespace/{n}" for n in source["namespaceSelector"]["matchLabels"].values()}
    return found


def test_everything_is_closed_unless_a_policy_opens_it() -> None:
    closed = [item for item in of_kind("NetworkPolicy") if item["spec"]["podSelector"] == {}]
    assert [(item["spec"]["policyTypes"], item["spec"].get("ingress")) for item in closed] == [(["Ingress"], None)]
    rules = [rule for item in of_kind("NetworkPolicy") for rule in item["spec"].get("ingress", ())]
    assert all(rule.get("from") for rule in rules), "a rule without a source lets everybody in"


def test_who_may_reach_what() -> None:
    ray = {"ray-head", "ray-gpu"}
    assert may_reach("ray-head", 8265) == ray | {"worker", "triggerer", "namespace/kuberay-operator"}
    assert may_reach("ray-head", 6379) == may_reach("ray-gpu") == ray
    clients = {"worker", "triggerer", "plumbline-exporter", "namespace/ingress-nginx"}
    assert may_reach("mlflow", 5000) == ray | clients
    assert may_reach("postgres", 5432) == {
        *("api-server", "scheduler", "dag-processor", "triggerer"),
        *("run-airflow-migrations", "create-user-job", "mlflow"),
    }
    assert may_reach("plumbline-exporter", 9464) == {"namespace/monitoring"}
    assert may_reach("api-server", 8080) >= {"worker", "scheduler", "triggerer", "plumbline-exporter"}
    assert not may_reach("api-server", 8080) & ray


def test_budgets_cover_what_may_not_go_at_once() -> None:
    covered = {name for item in of_kind("PodDisruptionBudget") for name in selected(item["spec"]["selector"])}
    assert covered == {"ray-head", "ray-gpu", "mlflow"}
    for part in (AIRFLOW["scheduler"], AIRFLOW["apiServer"], AIRFLOW["triggerer"], AIRFLOW["workers"]["celery"]):
        assert part["podDisruptionBudget"]["enabled"]
        assert part["replicas"] > 1, "a budget over one pod blocks every drain"


def written_secrets(document: Any) -> list[str]:
    """List values under a name that stands for a secret, except names and keys of Secrets."""
    return [
        f"{path}={value}"
        for path, value in leaves(document)
        if re.search(
            r"password|passphrase|token|secret|fernet|pass$|connection", path.rpartition(".")[2], re.IGNORECASE
        )
        and not re.search(r"SecretName$|secretName$|SecretKeySecretName$|^secret\.secretKey$", path)
        and isinstance(value, str)
    ]


def test_no_secret_is_written_down() -> None:
    assert of_kind("Secret") == []
    for document in (*OBJECTS, AIRFLOW, MLFLOW):
        assert written_secrets(document) == []


def test_a_written_secret_is_found() -> None:
    assert written_secrets({"webserverSecretKey": "x", "redis": {"password": "y", "passwordSecretName": "z"}}) == [
        "webserverSecretKey=x",
        "redis.password=y",
    ]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path.lstrip("."), value


def test_every_secret_and_config_map_that_is_named_is_documented() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    texts = [path.read_text() for path in FOLDER.rglob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"plumbline-[a-z-]+", text)}
    makes = {item["metadata"]["name"] for item in OBJECTS} | {
        "plumbline-control",
        "plumbline-gpu",
        "plumbline-head-svc",
    }
    documented = set(re.findall(r"`(plumbline-[a-z-]+)`", page))
    assert named - makes - {"plumbline-mlflow"} <= documented
    assert "plumbline-control" in documented, "it is the name of a Secret too"


def test_addresses_versions_and_images_agree_with_the_rest() -> None:
    (settings,) = of_kind("ConfigMap")
    environment = settings["data"]
    read = load_settings(environment)
    assert (read.store_uri, read.tracking_uri) == (
        environment["PLUMBLINE_STORE_URI"],
        environment["MLFLOW_TRACKING_URI"],
    )
    server = MLFLOW["server"]["value_options"]
    assert urlsplit(read.tracking_uri).netloc in server["allowed_hosts"].split(",")
    assert urlsplit(read.tracking_uri).hostname == MLFLOW["fullnameOverride"]
    (ray,) = of_kind("RayCluster")
    assert urlsplit(environment["PLUMBLINE_RAY_ADDRESS"]).hostname == f"{ray['metadata']['name']}-head-svc"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = dict(pin.split("==") for lines in extras.values() for pin in lines if "==" in pin)
    assert AIRFLOW["airflowVersion"] == pins["apache-airflow"]
    assert ray["spec"]["rayVersion"] == pins["ray[default,train]"]
    images = {image["name"]: image for image in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["images"]}
    control = images["plumbline-control"]
    for found in (AIRFLOW["images"]["airflow"], MLFLOW["image"]):
        assert (found["repository"], found["tag"]) == (control["newName"], control["newTag"])
    assert {container["image"] for pod in PODS.values() for container in pod["spec"]["containers"]} == set(images)


def package_file(package: str, *path: str) -> str:
    """Return the text of a file of an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], *path).read_text()


def test_settings_of_airflow_and_mlflow_exist_in_the_installed_versions() -> None:
    """A misspelt option of Airflow is ignored without a word; one of MLflow stops the server."""
    sections = yaml.safe_load(package_file("airflow", "config_templates", "config.yml"))
    options = {(section, name) for section, value in sections.items() for name in value["options"]}
    celery = re.findall(r'"(\w+)": \{\n', package_file("airflow", "providers", "celery", "get_provider_info.py"))
    options |= {("celery", name) for name in celery}
    assert {(section, name) for section, values in AIRFLOW["config"].items() for name in values} <= options
    source = package_file("mlflow", "cli", "__init__.py") + package_file("mlflow", "utils", "cli_args.py")
    flags = {name.replace("-", "_") for name in re.findall(r'"--([a-z-]+)[/"]', source)}
    assert {*MLFLOW["server"]["value_options"], *MLFLOW["server"]["flag_options"]} <= flags
