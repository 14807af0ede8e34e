"""Build the images of the stack and of its stand-ins, with this host's settings of pip and uv as build secrets."""

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 1500
BASE_IMAGE = os.environ.get("COMPOSE_TEST_PYTHON_IMAGE", "")
"""Base image instead of the pinned one, where no registry can be reached: see tests/compose/README.md."""
IMAGES: Mapping[str, tuple[str, ...]] = {
    "plumbline-test-postgres": ("tests/compose/standins.Dockerfile", "--target=postgres"),
    "plumbline-test-broker": ("tests/compose/standins.Dockerfile", "--target=broker"),
    "plumbline-test-object-store": ("tests/compose/standins.Dockerfile", "--target=object-store"),
    "plumbline-worker": ("infra/images/control.Dockerfile", "--build-arg=EXTRAS=control cluster ray gpu"),
    "plumbline-control": ("infra/images/control.Dockerfile",),
    "plumbline-gpu": ("infra/images/gpu.Dockerfile",),
}


def build_images(docker: str, scratch: Path) -> None:
    """Build every image; the layers that have not changed are found."""
    certificates = ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().openssl_cafile
    with _find_links() as find_links:
        installer = scratch / "installer.env"
        installer.write_text(_installer_settings(find_links))
        for tag, (dockerfile, *arguments) in IMAGES.items():
            base = [f"--build-arg=PYTHON_IMAGE={BASE_IMAGE}"] if BASE_IMAGE else []
            command = [
                *(docker, "build", "--network=host", "--tag", tag, "--file", dockerfile, *base, *arguments),
                *(f"--secret=id=installer,src={installer}", f"--secret=id=certificates,src={certificates}", "."),
            ]
            env = {**os.environ, "DOCKER_BUILDKIT": "1"}
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
            )
            assert done.returncode == 0, f"{tag}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"


def _installer_settings(find_links: str) -> str:
    """Return the settings of pip and uv, for a shell; certificates are those of this host."""
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "HTTP_PROXY", "HTTPS_PROXY")
    given = {name: os.environ[name] for name in names if name in os.environ}
    given |= {"PIP_CERT": "/run/secrets/certificates", "SSL_CERT_FILE": "/run/secrets/certificates"}
    if find_links:
        given |= {"PIP_FIND_LINKS": find_links, "UV_FIND_LINKS": find_links}
    return "".join(f"{name}='{value}'\n" for name, value in given.items())


@contextmanager
def _find_links() -> Iterator[str]:
    """Serve a local folder of wheels to the builds, which do not see this host's disk; empty when there is none."""
    folder = os.environ.get("PIP_FIND_LINKS", "")
    if not folder or "://" in folder:
        yield folder
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
