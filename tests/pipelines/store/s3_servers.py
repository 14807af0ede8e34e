"""S3 servers for tests: moto's with a list of its requests, LocalBucket as a process, and one that lacks features."""

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
from botocore.config import Config

from pipelines.settings import Settings

START_SECONDS = 30
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Request:
    """One request that a server received."""

    method: str
    path: str
    query: dict[str, list[str]]
    num_bytes: int
    """Length of the request's body."""


@dataclass
class Recorded:
    """A server and its requests so far. `before` is called with each request, before it is answered."""

    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)
    before: Callable[[Request], None] = lambda request: None
    active: int = 0
    """Requests that are being answered."""

    def listings(self) -> list[str]:
        """The prefixes that were listed."""
        return [r.query.get("prefix", [""])[0] for r in self.requests if "list-type" in r.query]

    def parts(self) -> list[int]:
        """Numbers of the parts that were uploaded."""
        found = [r for r in self.requests if r.method == "PUT" and "partNumber" in r.query]
        return [int(r.query["partNumber"][0]) for r in found]

    def gets(self, name: str) -> int:
        """Number of GET requests for an object."""
        return sum(r.method == "GET" and r.path.endswith(name) for r in self.requests)


@contextmanager
def serve_moto(certificate: tuple[Path, Path] | None = None) -> Iterator[Recorded]:
    """Run moto's server in this process, with no buckets; with TLS if there is a certificate and its key."""
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class KeepAlive(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

    # Servers of one process share their buckets.
    s3_backends.reset()
    recorded, lock = Recorded(), threading.Lock()
    app = DomainDispatcherApplication(create_backend_app)

    def recording(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            parse_qs(environ["QUERY_STRING"], keep_blank_values=True),
            int(environ.get("CONTENT_LENGTH") or 0),
        )
        with lock:
            recorded.active += 1
        try:
            recorded.before(request)
            recorded.requests.append(request)
            return app(environ, start_response)
        finally:
            with lock:
                recorded.active -= 1

    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    server = make_server("127.0.0.1", 0, recording, threaded=True, ssl_context=context, request_handler=KeepAlive)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    recorded.endpoint = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield recorded
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def serve_localbucket(folder: Path) -> Iterator[str]:
    """Run LocalBucket on a folder; the endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).parent / "localbucket"), "--port", str(port), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


class MeagreS3(BaseHTTPRequestHandler):
    """A replacement for an S3 server that lacks features: it responds with 501 to the request headers in `refuses`."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    refuses: tuple[str, ...]
    puts: list[dict[str, str]]

    def do_HEAD(self) -> None:
        self._answer(200 if self.path in self.objects else 404, self.objects.get(self.path, b""), body=False)

    def do_GET(self) -> None:
        if self.path in self.objects:
            self._answer(200, self.objects[self.path])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.puts.append({name.lower(): value for name, value in self.headers.items()})
        if any(name in self.headers for name in self.refuses):
            self._answer(501, b"<Error><Code>NotImplemented</Code><Message>no such header</Message></Error>")
        else:
            self.objects[self.path] = data
            self._answer(200, b"")

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _answer(self, status: int, data: bytes, body: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def serve_meagre_s3(*refuses: str) -> Iterator[tuple[str, type[MeagreS3]]]:
    handler = type("Handler", (MeagreS3,), {"objects": {}, "refuses": refuses, "puts": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no server on port {port}; exit code {process.poll()}")


def plain_client(endpoint: str, ca: Path | None = None) -> Any:
    """A client of the test's own, apart from the store's."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
        verify=str(ca) if ca else None,
        config=Config(s3={"addressing_style": "path"}),
    )


def s3_settings(endpoint: str, root: str = "s3://bucket/root", state_dir: Path = Path("/nowhere")) -> Settings:
    """Settings of an installation whose store is on a server."""
    return Settings(
        store_uri=root, tracking_uri="", state_dir=state_dir, projects_dir=state_dir, s3_endpoint_url=endpoint
    )


def own_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate for 127.0.0.1: the authority's file, the certificate's, and its key's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def signed(subject: str, public_key: Any, extensions: list[tuple[Any, bool]]) -> Any:
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("test authority"))
        builder = builder.public_key(public_key).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        ).add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(ca_key, hashes.SHA256())

    usage = {name: name == "key_cert_sign" for name in KEY_USES}
    authority = signed(
        "test authority",
        ca_key.public_key(),
        [(x509.BasicConstraints(ca=True, path_length=None), True), (x509.KeyUsage(**usage), True)],
    )
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = signed("127.0.0.1", key.public_key(), [(host, False)])
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    files[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    os.chmod(files[2], 0o600)
    return files


KEY_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
