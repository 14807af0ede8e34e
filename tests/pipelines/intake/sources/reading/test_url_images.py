"""Fetching by address within limits, from a server with a certificate on this host."""

import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipelines.intake.sources.reading.url_images import UrlFetcher, _is_public


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path: an image, a page, a redirect, many bytes, or a part of an image."""

    finished = threading.Event()

    def do_GET(self) -> None:
        kind = "text/html" if self.path == "/page" else "image/png"
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Location", "https://localhost/other")
        self.end_headers()
        self.wfile.write(b"x" * (5000 if self.path == "/large" else 10))
        if self.path == "/slow":
            self.wfile.flush()
            Handler.finished.wait(60)

    def log_message(self, format: str, *arguments: object) -> None:
        del format, arguments


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    built = built.not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(private + built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def port(certificate: Path) -> Iterator[int]:
    """Serve on loopback; yield the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        Handler.finished.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def fetcher(certificate: Path) -> UrlFetcher:
    """Return a fetcher that may connect to this host and trusts the certificate."""
    context = ssl.create_default_context(cafile=str(certificate))
    return UrlFetcher(
        ["localhost"], 1000, allows=lambda address: address == "127.0.0.1" or address == "::1", context=context
    )


def test_an_image_of_a_listed_host_is_fetched(fetcher: UrlFetcher, port: int) -> None:
    assert fetcher.fetch(f"https://localhost:{port}/a.png") == b"x" * 10


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("https://localhost:{port}/page", "answered 200 with text/html"),
        ("https://localhost:{port}/moved", "answered 302 .* redirects are not followed"),
        ("https://localhost:{port}/large", "larger than 1000 bytes"),
        ("http://localhost:{port}/a.png", "may not be fetched from"),
        ("https://127.0.0.1:{port}/a.png", "Host '127.0.0.1' may not be fetched from"),
        ("https://localhost@evil.org/a.png", "Host 'evil.org' may not be fetched from"),
        ("https://me:secret@localhost:{port}/a.png", "may not be fetched from"),
    ],
)
def test_everything_else_is_refused(fetcher: UrlFetcher, port: int, address: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        fetcher.fetch(address.format(port=port))
    assert "secret" not in str(error.value)


def test_a_server_that_never_ends_is_left_after_the_time_limit(certificate: Path, port: int) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    Handler.finished.clear()
    fetcher = UrlFetcher(["localhost"], 1000, max_seconds=0.5, allows=lambda address: True, context=context)
    with pytest.raises(ValueError, match=r"could not be fetched within 0\.5 s"):
        fetcher.fetch(f"https://localhost:{port}/slow")
    assert not Handler.finished.is_set()


def test_a_host_with_a_private_address_is_refused_without_a_connection(certificate: Path, port: int) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    with pytest.raises(ValueError, match="which is not public"):
        UrlFetcher(["localhost"], 1000, context=context).fetch(f"https://localhost:{port}/a.png")


def test_a_certificate_that_nobody_signed_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="could not be fetched"):
        UrlFetcher(["localhost"], 1000, allows=lambda address: True).fetch(f"https://localhost:{port}/a.png")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("name", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    assert _is_public(address) is public
