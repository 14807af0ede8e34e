"""The connection to an S3 server: clients, what the server was found to lack, and errors that a person can act on."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.store.disk import missing
from pipelines.store.folders import PARALLEL_TRANSFERS

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MISSING = {"404", "NoSuchKey", "NotFound"}
_READS = 4
REFUSED = {
    *("501", "NotImplemented", "400", "InvalidArgument", "InvalidRequest", "405", "MethodNotAllowed"),
    *("MissingContentLength", "XAmzContentSHA256Mismatch", "BadDigest", "SignatureDoesNotMatch"),
}


@dataclass
class _Facts:
    """Facts of one server, found in use and kept for the life of the process."""

    checksums: bool = True
    """False once the server refused a checksum on upload."""
    conditional: set[str] = field(default_factory=set)
    """Buckets in which a conditional put was seen to be refused when the object exists."""


@functools.cache
def _facts(endpoint_url: str | None) -> _Facts:
    return _Facts()


class S3Connection:
    """Clients of one server. Every thread may use them."""

    def __init__(self, endpoint_url: str | None) -> None:
        self.name = endpoint_url or "AWS"
        self._endpoint_url = endpoint_url
        self.facts = _facts(endpoint_url)

    @property
    def client(self) -> "S3Client":
        """The client for everything but ranges."""
        return s3_client(self._endpoint_url, checksums=self.facts.checksums)

    @property
    def unchecked_client(self) -> "S3Client":
        """A client that verifies no checksum of a response: some servers send that of the object with a range of it."""
        return s3_client(self._endpoint_url, checksums=False)

    def send(self, send: Callable[["S3Client"], Answer]) -> Answer:
        """Send with checksums; when the server refuses, send without, and remember it if that works."""
        from botocore.exceptions import ClientError

        try:
            return send(self.client)
        except ClientError as error:
            if not self.facts.checksums or not error_codes(error) & REFUSED:
                raise
            answer = send(self.unchecked_client)
            self.facts.checksums = False
            log.warning(
                "The S3 server at %s refuses checksums on upload (%s): none are sent, the manifests' sha256 remain.",
                self.name,
                error,
            )
            return answer


@functools.cache
def s3_client(endpoint_url: str | None, *, checksums: bool) -> "S3Client":
    """Return the client of a server. TLS, proxies and credentials are those of the AWS environment variables."""
    import boto3
    from botocore.config import Config

    when: Any = "when_supported" if checksums else "when_required"
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"total_max_attempts": 4, "mode": "standard"},
        max_pool_connections=2 * PARALLEL_TRANSFERS,
        request_checksum_calculation=when,
        response_checksum_validation=when,
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    return boto3.client("s3", endpoint_url=endpoint_url, config=config)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Split the URI of an object; ValueError when it names none."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise ValueError(f"{uri} names no object. Give s3://bucket/key.")
    return bucket, key


def error_codes(error: Any) -> set[str]:
    """Return the S3 code and the HTTP status of a botocore ClientError."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return {str(error.response.get("Error", {}).get("Code", "")), str(status)}


def read_again(read: Callable[[], Answer]) -> Answer:
    """Read a response; when it breaks off, ask again. The client by itself repeats only what comes before the body."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    for attempt in range(_READS):
        try:
            return read()
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
            if attempt == _READS - 1:
                raise
            log.info("A response broke off (%s) and is read again", error)
    raise AssertionError("unreachable")


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn botocore's errors into a ValueError where a person must act, a ConnectionError where waiting may help."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        NoCredentialsError,
        NoRegionError,
        SSLError,
    )

    try:
        yield
    except ClientError as error:
        codes = error_codes(error)
        if "NoSuchBucket" in codes:
            raise ValueError(f"The bucket of {uri} does not exist. Create it, or set PLUMBLINE_STORE_URI.") from error
        if codes & MISSING:
            raise missing(uri) from error
        if "403" in codes:
            raise ValueError(
                f"The store refuses access to {uri}: {error}. Check the credentials and the bucket's policy"
                " (docs/storage.md lists the actions), or set PLUMBLINE_STORE_URI."
            ) from error
        raise ConnectionError(f"{uri}: {error}") from error
    except (NoCredentialsError, NoRegionError) as error:
        raise ValueError(f"{uri}: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile.") from error
    except SSLError as error:
        raise ValueError(
            f"{uri}: the certificate of the server is not trusted: {error}. Set AWS_CA_BUNDLE to the file of the"
            " authority that signed it."
        ) from error
    except (HTTPClientError, BotoCoreError) as error:
        raise ConnectionError(f"{uri} cannot be reached: {error}. Check AWS_ENDPOINT_URL and the network.") from error
