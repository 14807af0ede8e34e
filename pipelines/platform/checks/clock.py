"""Compare this host's clock with those of the store and MLflow, by the Date header of their responses."""

import time
import urllib.error
import urllib.request
from email.message import Message
from email.utils import parsedate_to_datetime

from pipelines.settings import Settings

LARGEST_SKEW_SECONDS = 60
TIMEOUT_SECONDS = 5
_AWS = "https://s3.amazonaws.com"


def compare(settings: Settings) -> str:
    """Return the differences; ValueError when one is above 60 s.

    S3 refuses requests with a wrong time, and the age of pairs and calibrations is counted by the clock. A server that
    does not respond is reported by another check.
    """
    addresses = _addresses(settings)
    if not addresses:
        return "no server to compare with: store and MLflow are files of this host"
    skews = {name: _skew(address) for name, address in addresses.items()}
    wrong = [_text(name, skew) for name, skew in skews.items() if skew and abs(skew) > LARGEST_SKEW_SECONDS]
    if wrong:
        raise ValueError(f"The clock of this host is wrong, or that of a server: {'; '.join(wrong)}.")
    return "; ".join(_text(name, skew) for name, skew in skews.items())


def _addresses(settings: Settings) -> dict[str, str]:
    found = {}
    if settings.store_uri.startswith("s3://"):
        found["the store"] = settings.s3_endpoint_url or _AWS
    found["MLflow"] = f"{settings.tracking_uri.rstrip('/')}/health"
    return {name: address for name, address in found.items() if address.startswith(("http://", "https://"))}


def _text(name: str, skew: float | None) -> str:
    if skew is None:
        return f"{name} gave no time"
    if abs(skew) <= 2:
        return f"{name} has the same time"
    return f"{name} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"


def _skew(address: str) -> float | None:
    """Return a server's time minus ours in seconds, to a second or two; None when it gives none."""
    before = time.time()
    headers = _headers(address)
    stated = headers.get("Date") if headers is not None else None
    if stated is None:
        return None
    try:
        theirs = parsedate_to_datetime(stated).timestamp()
    except ValueError:
        return None
    return theirs - (before + time.time()) / 2


def _headers(address: str) -> Message | None:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response:
            found: Message = response.headers
            return found
    except urllib.error.HTTPError as error:
        return error.headers
    except (OSError, ValueError):
        return None
