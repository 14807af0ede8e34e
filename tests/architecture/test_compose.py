"""docker-compose.yml and its images keep their rules: no default secret, loopback ports, other users than root, pinned
images, a health check for every service that stays up.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
DOCKERFILES = sorted((ROOT / "infra" / "images").glob("*.Dockerfile"))
DIGEST = re.compile(r"[a-z0-9/.-]+:[\w.-]+@sha256:[0-9a-f]{64}")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY|SALT")
OURS = {"plumbline-control", "plumbline-worker", "plumbline-gpu"}
UIS = {"airflow-api", "mlflow"}


def once(service: dict[str, Any]) -> bool:
    """True for a job that ends, and for a command that a person runs."""
    return service["restart"] != "unless-stopped"


def test_the_file_has_the_services_of_the_platform() -> None:
    airflow = {f"airflow-{part}" for part in ("api", "scheduler", "dag-processor", "triggerer", "worker")}
    others = {"postgres", "broker", "object-store", "mlflow", "ray-head", "ray-worker", "ray-gpu-worker"}
    assert airflow | others <= set(SERVICES)
    assert {name for name, service in SERVICES.items() if service.get("profiles")} == {"ray-gpu-worker", "plumbline"}


def test_a_secret_has_no_default() -> None:
    for name, marker in re.findall(r"\$\{([A-Z][A-Z0-9_]*)(:?[-?+=]?)", TEXT):
        assert marker == ":?" or not SECRET.search(name), f"{name} may be empty or has a default"
    values = [
        (name, key, str(value)) for name, service in SERVICES.items() for key, value in environment(service).items()
    ]
    literal = [(name, key) for name, key, value in values if SECRET.search(key) and "${" not in value]
    assert literal == []


def environment(service: dict[str, Any]) -> dict[str, Any]:
    """Variables of a service."""
    found = service.get("environment", {})
    assert isinstance(found, dict)
    return found


def test_no_argument_of_a_process_holds_a_secret() -> None:
    """An argument is in the list of processes; a variable after $$ is read by the shell inside."""
    for name, service in SERVICES.items():
        arguments = [*service.get("command", []), *service.get("healthcheck", {}).get("test", [])]
        expanded = re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", " ".join(arguments))
        assert [variable for variable in expanded if SECRET.search(variable)] == [], name
        assert not re.search(r"--password", " ".join(arguments)), name


def test_only_the_two_user_interfaces_are_published_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == UIS
    for ports in published.values():
        [port] = ports
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)
    assert all(service.get("network_mode", "") == "" for service in SERVICES.values())


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_pinned_checked_and_without_new_privileges(name: str) -> None:
    service = SERVICES[name]
    image = service["image"]
    assert image in OURS or DIGEST.fullmatch(image), f"{image} is not pinned by digest"
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("privileged") is None
    assert once(service) != ("healthcheck" in service)
    if image in OURS:
        assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", sorted(name for name, service in SERVICES.items() if "healthcheck" in service))
def test_a_health_check_asks_the_service_by_its_name(name: str) -> None:
    """By the name that others use; a probe of this project reads it from a variable."""
    service = SERVICES[name]
    check = " ".join(service["healthcheck"]["test"])
    if "compose.probe" in check:
        variable = {"airflow": "AIRFLOW_URL", "mlflow": "MLFLOW_TRACKING_URI", "ray": "PLUMBLINE_RAY_ADDRESS"}
        asked = check.split("compose.probe ")[1].split()[0].removesuffix("-node")
        host = {"airflow": "airflow-api", "mlflow": "mlflow", "ray": "ray-head"}[asked]
        assert environment(service)[variable[asked]].startswith(f"http://{host}:")
    else:
        assert re.search(rf"[ /@]{re.escape(name)}\b", check)


def test_who_runs_jobs_has_no_way_to_the_databases() -> None:
    on = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert {name for name in on if "database" in on[name]}.isdisjoint({"airflow-worker", "ray-head", "ray-worker"})
    assert all("PGPASSWORD" not in environment(SERVICES[name]) for name in ("airflow-worker", "ray-head", "ray-worker"))
    networks = yaml.safe_load(TEXT)["networks"]
    assert {name for name, given in networks.items() if (given or {}).get("internal")} >= {
        "database",
        "broker",
        "store",
    }


def test_mlflow_requires_a_login_and_allows_its_service_name() -> None:
    command = SERVICES["mlflow"]["command"]
    assert "--app-name=basic-auth" in command
    [hosts] = [argument.split("=")[1].split(",") for argument in command if argument.startswith("--allowed-hosts=")]
    assert {"mlflow", "mlflow:*"} <= set(hosts)
    assert "*" not in hosts


def test_ray_requires_a_token_everywhere() -> None:
    for name in ("ray-head", "ray-worker", "ray-gpu-worker", "airflow-worker", "airflow-triggerer"):
        assert environment(SERVICES[name])["RAY_AUTH_MODE"] == "token"
        assert ":?" in environment(SERVICES[name])["RAY_AUTH_TOKEN"]


def test_every_mounted_or_built_path_exists_and_is_read_only() -> None:
    volumes = set(yaml.safe_load(TEXT)["volumes"])
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source, _, mode = mount.split(":", 1)[0], *mount.split(":", 1)[1].partition(":")[1:]
            if source not in volumes:
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert mode == "ro", f"{name}: {mount}"
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_is_pinned_runs_as_another_user_and_copies_what_exists(path: Path) -> None:
    lines = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    arguments = dict(line.removeprefix("ARG ").split("=", 1) for line in lines if line.startswith("ARG "))
    assert DIGEST.fullmatch(arguments["PYTHON_IMAGE"])
    froms = [line for line in lines if line.startswith("FROM ")]
    assert len(froms) == 2, "a stage that builds and one that runs"
    assert all(line.split()[1] == "${PYTHON_IMAGE}" for line in froms)
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001:10001"
    assert lines[-1].startswith("USER "), "nothing runs after the user is set"
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for line in (line for line in lines if line.startswith("COPY ") and "--from=" not in line):
        for source in line.split()[1:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in allowed or f"!{source}/" in allowed, f"{source} is not sent to the build"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_digest_of_a_base_image_can_be_refreshed(path: Path) -> None:
    assert "docker buildx imagetools inspect" in path.read_text()


def test_the_extras_of_the_images_exist() -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = [extra for path in DOCKERFILES for extra in re.findall(r'ARG EXTRAS="([^"]*)"', path.read_text())]
    built = [service["build"]["args"]["EXTRAS"] for service in SERVICES.values() if "args" in service.get("build", {})]
    assert {name for text in (*found, *built) for name in text.split()} <= set(known)
    [gpu] = [text for text in found if "gpu" in text]
    assert {"control", "cluster"}.isdisjoint(gpu.split()), "a training host has no Airflow"


def test_infra_holds_data_only() -> None:
    assert list((ROOT / "infra").rglob("*.py")) == []
