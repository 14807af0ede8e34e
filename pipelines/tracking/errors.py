"""Translate MLflow's errors for the caller: unavailable, refused, or failed. One sentence each, without passwords."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

REFUSED_HOST = "Invalid Host header"
MOST_CHARACTERS = 300

UNAUTHENTICATED, FORBIDDEN = 401, 403


class TrackingUnavailable(RuntimeError):  # noqa: N818 - a state, as in `Diverged`
    """The tracking server did not respond in time. The caller's input is not at fault; a later attempt may succeed."""


class TrackingRefused(ValueError):  # noqa: N818 - a state, as in `Diverged`
    """The tracking server refuses this user or this request. The request itself was not evaluated."""


def explained(error: Exception, tracking_uri: str) -> Exception | None:
    """Return the error to raise instead of one met while talking to MLflow; None when it is not one of MLflow's."""
    if isinstance(error, TrackingUnavailable | TrackingRefused):
        return None
    where, message = without_password(tracking_uri), str(error)
    if REFUSED_HOST in message:
        return ValueError(
            f"MLflow at {where} refuses that host name. Start it with `--allowed-hosts {urlsplit(where).netloc}`,"
            " or use an address that it allows (by default localhost and private addresses)."
        )
    if _is_unreachable(error):
        return TrackingUnavailable(_unavailable(where, message))
    status = _status(error)
    if status == UNAUTHENTICATED:
        return TrackingRefused(
            f"MLflow at {where} does not know this log-in (401). Set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD to those of one of its users."
        )
    if status == FORBIDDEN:
        return TrackingRefused(
            f"MLflow at {where} does not allow this to the user in MLFLOW_TRACKING_USERNAME (403). On the project's"
            " experiment and registered model, reading needs READ, training and registering EDIT, moving the champion"
            " and pruning MANAGE."
        )
    if status is None:
        return None
    return RuntimeError(
        f"MLflow at {where} could not do this: {_one_line(message)} Check that server, then run this again."
    )


def without_password(uri: str) -> str:
    """Return an address without log-in and options, safe to show; a file's address as it is."""
    scheme, _, rest = uri.partition("://")
    if not rest or scheme.startswith(("sqlite", "file")):
        return uri
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def _unavailable(where: str, message: str) -> str:
    again = "then run this again: finished work will be found."
    failing = re.search(r"too many (\d{3}) error responses", message)
    if failing:
        return f"MLflow at {where} responds with HTTP error {failing[1]} each time. Check its log, {again}"
    reason = re.search(r"\[Errno -?\d+\] ([\w ]+)", message)
    why = reason[1] if reason else "no response in time" if "timed out" in message else "connection failed"
    return (
        f"MLflow at {where} does not respond ({why}). Start it (`make up` on one host) or correct MLFLOW_TRACKING_URI,"
        f" {again}"
    )


def _is_unreachable(error: Exception) -> bool:
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RetryError, Timeout

    return any(isinstance(link, NoConnection | RetryError | Timeout) for link in _chain(error))


def _status(error: Exception) -> int | None:
    """Return the HTTP status of a response that MLflow's client turned into an error; 500 if unknown; None if no error
    of it.
    """
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


def _one_line(message: str) -> str:
    """Return the beginning of a message, without passwords, as a sentence."""
    line = re.sub(r"//[^/@\s]+@", "//", " ".join(message.split()))
    return f"{line[:MOST_CHARACTERS].rstrip(' .')}."
