"""Write the secrets that docker-compose.yml requires to `.env`: `make compose-secrets`.

Standard library only: it runs before anything is installed. A value that is there is never changed; run again after an
update it adds what the new file requires.
"""

import base64
import os
import re
import secrets
import sys
from pathlib import Path

COMPOSE_FILE = "docker-compose.yml"
ENV_FILE = ".env"
_REQUIRED = re.compile(r"\$\{([A-Z][A-Z0-9_]*):\?")
_FERNET_KEY = "AIRFLOW_FERNET_KEY"
"""Variable of 32 bytes in URL-safe base64; every other one is hexadecimal, which needs no escaping in an address."""


def required_variables(compose_file: Path) -> list[str]:
    """List the variables without a default in a compose file, sorted."""
    return sorted(set(_REQUIRED.findall(compose_file.read_text(encoding="utf-8"))))


def read_env(env_file: Path) -> dict[str, str]:
    """Return the variables of an env file; empty when there is no file."""
    lines = env_file.read_text(encoding="utf-8").splitlines() if env_file.is_file() else []
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#")]
    return {name.strip(): value.strip() for name, value in pairs}


def write_secrets(compose_file: Path, env_file: Path) -> list[str]:
    """Append a random value for each required variable that the env file lacks; return the names.

    The file is readable by its owner only, also when it was not before.
    """
    there = read_env(env_file)
    missing = [name for name in required_variables(compose_file) if not there.get(name)]
    descriptor = os.open(env_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o600)
        text = env_file.read_text(encoding="utf-8")
        stream.write("\n" if text and not text.endswith("\n") else "")
        stream.writelines(f"{name}={_new_value(name)}\n" for name in missing)
    return missing


def _new_value(name: str) -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() if name == _FERNET_KEY else secrets.token_hex(32)


if __name__ == "__main__":
    written = write_secrets(Path(COMPOSE_FILE), Path(ENV_FILE))
    sys.stdout.write(f"{ENV_FILE}: {len(written)} secrets written {' '.join(written)}\n")
