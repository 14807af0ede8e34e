"""Fetch images by https address within limits, so that a table cannot make this host read a private network.

The name is resolved once and the connection goes to the address that was checked: a name that resolves differently the
second time gains nothing. No redirect is followed and no proxy of the environment is used.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

_CONNECT_SECONDS = 10.0
_BLOCK_BYTES = 64 * 1024
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class UrlFetcher:
    """Fetches from the listed hosts only, at most `max_bytes` of type image/* and within `max_seconds` for each image.

    `allows` says whether an address may be connected to; by default only those of the public internet.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        *,
        max_seconds: float = 30.0,
        allows: Callable[[str], bool] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
        self._allows = allows or _is_public
        self._context = context or ssl.create_default_context()

    def fetch(self, url: str) -> bytes:
        """Return the bytes at an https address; ValueError names what was refused or failed."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme != "https" or host not in self._hosts or parts.username is not None:
            raise ValueError(
                f"Host {host!r} may not be fetched from. Allowed: https addresses without a log-in at"
                f" {', '.join(sorted(self._hosts))}; add it to url_hosts if you trust it."
            )
        port = parts.port or 443
        connection = _CheckedConnection(host, port, self._address(host, port), self._context)
        # A server that sends a byte now and then never exceeds the time limit of a single read.
        timer = threading.Timer(self._max_seconds, connection.stop)
        timer.start()
        try:
            connection.request("GET", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}")
            with connection.getresponse() as response:
                data = self._body(response, host)
            if connection.stopped:
                raise TimeoutError("it was not complete")
            return data
        except (OSError, http.client.HTTPException) as error:
            limit = f"within {self._max_seconds:g} s"
            raise ValueError(f"An image at {host} could not be fetched {limit}: {error}.") from error
        finally:
            timer.cancel()
            connection.close()

    def _address(self, host: str, port: int) -> str:
        try:
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except OSError as error:
            raise ValueError(f"Host {host!r} has no address: {error}.") from error
        refused = [address for address in found if not self._allows(address)]
        if refused or not found:
            raise ValueError(f"Host {host!r} has the address {refused[:1]}, which is not public. It is not fetched.")
        return found[0]

    def _body(self, response: http.client.HTTPResponse, host: str) -> bytes:
        kind = response.headers.get_content_type()
        if response.status != http.client.OK or not kind.startswith("image/"):
            raise ValueError(
                f"{host} answered {response.status} with {kind}. Expected: 200 with an image; redirects are not"
                " followed."
            )
        data = bytearray()
        while block := response.read(_BLOCK_BYTES):
            data += block
            if len(data) > self._max_bytes:
                raise ValueError(f"An image at {host} is larger than {self._max_bytes} bytes.")
        return bytes(data)


def _is_public(address: str) -> bool:
    """Return True for an address of the public internet; not for loopback, private, link-local or multicast ones."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if parsed.is_multicast or not parsed.is_global:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return True
    inside = parsed.ipv4_mapped or parsed.sixtofour
    if parsed in _NAT64:
        inside = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return inside is None or inside.is_global


class _CheckedConnection(http.client.HTTPSConnection):
    """A connection to one address whose certificate must be that of the host."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=_CONNECT_SECONDS, context=context)
        self._place, self._tls = (address, port), context
        self.stopped = False
        self._open: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the address that was checked."""
        plain = socket.create_connection(self._place, _CONNECT_SECONDS)
        self._open = plain  # so that `stop` ends the handshake too
        self.sock = self._open = self._tls.wrap_socket(plain, server_hostname=self.host)

    def stop(self) -> None:
        """End whatever read or write is under way, from another thread."""
        self.stopped = True
        with contextlib.suppress(OSError):
            if self._open is not None:
                self._open.shutdown(socket.SHUT_RDWR)
