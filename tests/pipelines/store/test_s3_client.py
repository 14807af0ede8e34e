"""Errors of an S3 server in words that a person can act on."""

import pytest
from botocore.exceptions import ClientError, IncompleteReadError, NoCredentialsError, ReadTimeoutError, SSLError

from pipelines.store.s3_client import bucket_and_key, error_codes, explained, read_again, s3_client


def refusal(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refusal("NoSuchBucket", 404), ValueError, "bucket of s3://b/k does not exist"),
        (refusal("NoSuchKey", 404), ValueError, "s3://b/k does not exist"),
        (refusal("AccessDenied", 403), ValueError, "refuses access to s3://b/k"),
        (refusal("SlowDown", 503), ConnectionError, "SlowDown"),
        (NoCredentialsError(), ValueError, "AWS_ACCESS_KEY_ID"),
        (SSLError(endpoint_url="https://s", error="self-signed"), ValueError, "AWS_CA_BUNDLE"),
        (ReadTimeoutError(endpoint_url="https://s"), ConnectionError, "cannot be reached"),
    ],
)
def test_an_error_says_what_to_do(error: Exception, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words), explained("s3://b/k"):
        raise error


def test_a_response_that_breaks_off_is_read_again_a_few_times() -> None:
    tries: list[int] = []

    def read(broken: int) -> int:
        tries.append(1)
        if len(tries) <= broken:
            raise IncompleteReadError(actual_bytes=1, expected_bytes=2)
        return len(tries)

    assert read_again(lambda: read(broken=2)) == 3
    tries.clear()
    with pytest.raises(IncompleteReadError):
        read_again(lambda: read(broken=99))
    assert len(tries) == 4


def test_codes_are_the_name_and_the_status() -> None:
    assert error_codes(refusal("SlowDown", 503)) == {"SlowDown", "503"}


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3:///key"])
def test_a_uri_without_bucket_or_key_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="names no object"):
        bucket_and_key(uri)


def test_one_client_serves_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    first = s3_client("http://127.0.0.1:8", checksums=True)
    assert s3_client("http://127.0.0.1:8", checksums=True) is first
    assert s3_client("http://127.0.0.1:8", checksums=False) is not first
