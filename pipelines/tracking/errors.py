"""What MLflow's errors mean for whoever asked: away, not allowed, or not possible. One sentence each, no password."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

REFUSED_HOST = "Invalid Host header"
MOST_CHARACTERS = 300

UNAUTHENTICATED, FORBIDDEN = 401, 403


class TrackingUnavailable(RuntimeError):  # noqa: N818 - a state of the world, as in `Diverged`
    """The tracking server did not answer in time. Nothing is wrong with the caller's input; trying later may work."""


class TrackingRefused(ValueError):  # noqa: N818 - a state of the world, as in `Diverged`
    """The tracking server does not let this user in, or do this. Nothing is known about what was asked."""


def explained(error: Exception, tracking_uri: str) -> Exception | None:
    """What to raise instead of an error met while talking to MLflow; None when it is not one of MLflow's."""
    if isinstance(error, TrackingUnavailable | TrackingRefused):
        return None
    where, said = without_password(tracking_uri), str(error)
    if REFUSED_HOST in said:
        return ValueError(
            f"MLflow at {where} refuses that host name. Start it with `--allowed-hosts {urlsplit(where).netloc}`,"
            " or use an address that it allows (localhost and private addresses, unless told otherwise)."
        )
    if _is_unreachable(error):
        return TrackingUnavailable(_unavailable(where, said))
    status = _status(error)
    if status == UNAUTHENTICATED:
        return TrackingRefused(
            f"MLflow at {where} does not know this log-in (401). Set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD to those of one of its users."
        )
    if status == FORBIDDEN:
        return TrackingRefused(
            f"MLflow at {where} does not allow this to the user in MLFLOW_TRACKING_USERNAME (403). On the project's"
            " experiment and registered model, looking needs READ, training and registering EDIT, moving the champion"
            " and pruning MANAGE."
        )
    if status is None:
        return None
    return RuntimeError(f"MLflow at {where} could not do this: {_one_line(said)} Look there, then run this again.")


def without_password(uri: str) -> str:
    """An address that may be shown."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _unavailable(where: str, said: str) -> str:
    again = "then run this again: what is finished will be found."
    failing = re.search(r"too many (\d{3}) error responses", said)
    if failing:
        return f"MLflow at {where} answers with HTTP error {failing[1]} each time. Look at its log, {again}"
    reason = re.search(r"\[Errno -?\d+\] ([\w ]+)", said)
    why = reason[1] if reason else "no answer in time" if "timed out" in said else "connection failed"
    return (
        f"MLflow at {where} does not answer ({why}). Start it (`make up` on one host) or correct MLFLOW_TRACKING_URI,"
        f" {again}"
    )


def _is_unreachable(error: Exception) -> bool:
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RetryError, Timeout

    return any(isinstance(link, NoConnection | RetryError | Timeout) for link in _chain(error))


def _status(error: Exception) -> int | None:
    """HTTP status of an answer that MLflow's client turned into an error; 500 where it has none; else None."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if response is not None:
            return int(response.status_code)
    named = re.search(r"failed with error code (\d{3}) !=", str(error))
    if named:
        return int(named[1])
    own = getattr(error, "get_http_status_code", None)
    return int(own()) if own is not None else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(said: str) -> str:
    """The beginning of a message, without passwords, as a sentence."""
    line = re.sub(r"//[^/@\s]+@", "//", " ".join(said.split()))
    return f"{line[:MOST_CHARACTERS].rstrip(' .')}."
