"""Check the stack of docker-compose.yml from its host: secrets, and the state of each container."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

from pipelines.platform.compose.secrets import COMPOSE_FILE, ENV_FILE, read_env, required_variables

DOCKER_SECONDS = 30
_PRIVATE = 0o600
_FORMAT = '{{.Label "com.docker.compose.service"}}\t{{.Status}}'


def is_prepared(root: Path) -> bool:
    """Return True where the stack has its secrets; without them a host runs the embedded platform, or none."""
    return (root / COMPOSE_FILE).is_file() and (root / ENV_FILE).is_file()


def check_stack(root: Path, docker: str = "docker") -> str:
    """Describe the stack; ValueError names each secret that is missing and each service that does not work."""
    env_file = root / ENV_FILE
    env = read_env(env_file)
    mode = stat.S_IMODE(env_file.stat().st_mode)
    if mode != _PRIVATE:
        raise ValueError(f"{env_file} has mode {mode:o}, so others may read the secrets. Run `chmod 600 {env_file}`.")
    missing = [name for name in required_variables(root / COMPOSE_FILE) if not env.get(name)]
    if missing:
        raise ValueError(f"{env_file} has no value for {', '.join(missing)}. Run `make compose-secrets`.")
    states = _states(docker, env.get("COMPOSE_PROJECT_NAME") or _project_name(root))
    if not states:
        return "secrets are complete; no container of the stack exists, `docker compose up --detach` makes them"
    faults = {name: state for name in _services(root) if (state := _fault(states.get(name)))}
    if faults:
        raise ValueError("; ".join(f"{name}: {state}" for name, state in sorted(faults.items())))
    return f"{len(states)} containers are healthy or have ended well"


def _states(docker: str, project: str) -> dict[str, str]:
    """Return docker's status line of each service's container."""
    if shutil.which(docker) is None:
        raise ValueError(f"{docker} is not installed. Install Docker Engine.")
    label = f"label=com.docker.compose.project={project}"
    command = [docker, "ps", "--all", "--filter", label, "--format", _FORMAT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOCKER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{docker} did not respond within {DOCKER_SECONDS} s.") from error
    if done.returncode != 0:
        raise ValueError(f"{docker} failed: {done.stderr.strip()[:300]}")
    return dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)


def _project_name(root: Path) -> str:
    """Return the name that docker compose derives from the folder."""
    return re.sub(r"[^a-z0-9_-]", "", root.resolve().name.lower()).lstrip("_-")


def _services(root: Path) -> list[str]:
    """List the services that `docker compose up` starts without a profile."""
    import yaml

    services = yaml.safe_load((root / COMPOSE_FILE).read_text(encoding="utf-8"))["services"]
    return [name for name, given in services.items() if not given.get("profiles")]


def _fault(status: str | None) -> str:
    """Return the reason why a service does not work; empty when it is healthy or a one-shot job that ended well."""
    if status is None:
        return "has no container; run `docker compose up --detach`"
    if (status.startswith("Up ") and status.endswith("(healthy)")) or status.startswith("Exited (0)"):
        return ""
    return f"{status}; see `docker compose logs --tail 50 SERVICE`"
