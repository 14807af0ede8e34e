"""Serve a ballot on the loopback address, to the person who started it.

The printed address has a random token, which becomes a cookie. A request with another Host, from another site or
without the cookie is refused. Images are named by their position in the ballot and their side: a request never names a
file, and nothing in a page, an address or a header tells which model drew an image.
"""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from pipelines.pages.page import page_environment
from pipelines.platform.ballot.ballot import LEFT, RIGHT, TIE, Ballot

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
_FOLDER = Path(__file__).parent
_HOSTS = (LOOPBACK, "localhost")
_CHOICES = {"left": LEFT, "tie": TIE, "right": RIGHT}
_MAXIMUM_FORM_BYTES = 2000
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def serve(ballot: Ballot, *, port: int, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. `announce` gets the address once the port is taken; 0 takes a free port.

    ValueError when the port is in use.
    """
    import uvicorn

    token = secrets.token_urlsafe(24)
    with _listener(port) as listener:
        config = uvicorn.Config(
            make_app(ballot, token),
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
        announce(f"http://{LOOPBACK}:{listener.getsockname()[1]}/?token={token}")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            return


def make_app(ballot: Ballot, token: str) -> "ASGIApp":
    """Return the web application."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    page = _Page(ballot, token)
    routes = [
        Route("/", page.show),
        Route("/image/{number:int}/{side}", page.image),
        Route("/vote", page.vote, methods=["POST"]),
        *(Route(f"/{name}", page.asset) for name in _ASSETS),
    ]
    return _Guard(Starlette(routes=routes), token)


_ASSETS = {"ballot.css": "text/css", "ballot.js": "text/javascript"}


class _Page:
    """The handlers of requests that the guard let through."""

    def __init__(self, ballot: Ballot, token: str) -> None:
        self._ballot = ballot
        self._token = token
        self._templates = page_environment(_FOLDER)

    def show(self, request: "Request") -> "Response":
        """Show the present pair. The token of the printed address becomes a cookie, and leaves the address."""
        from starlette.responses import RedirectResponse

        if "token" not in request.query_params:
            return self._page(self._ballot.current())
        answer = RedirectResponse("/", status_code=303)
        # Not "strict": a link in a terminal that is itself a web page would then lead to a refusal. Votes need the
        # origin of this page besides.
        answer.set_cookie(_cookie_name(request.url.port), self._token, httponly=True, samesite="lax")
        return answer

    def image(self, request: "Request") -> "Response":
        """Return an image by the position of its pair and its side."""
        from starlette.responses import PlainTextResponse, Response

        number, side = request.path_params["number"], request.path_params["side"]
        if side not in ("left", "right") or number >= len(self._ballot.pairs):
            return PlainTextResponse("There is no such image.", status_code=404)
        pair = self._ballot.pairs[number]
        try:
            content = self._ballot.read_image((pair.left if side == "left" else pair.right).uri)
        except (ValueError, OSError):
            return PlainTextResponse("The image cannot be read.", status_code=503)
        return Response(content, media_type="image/png")

    def asset(self, request: "Request") -> "Response":
        """Return the style or the script."""
        from starlette.responses import Response

        name = request.url.path.removeprefix("/")
        return Response((_FOLDER / name).read_bytes(), media_type=_ASSETS[name])

    async def vote(self, request: "Request") -> "Response":
        """Record a vote, then send the browser to the next pair."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse, RedirectResponse

        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > _MAXIMUM_FORM_BYTES:
            return PlainTextResponse("The form is too large.", status_code=413)
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        choice, number = form.get("choice", [""])[0], form.get("number", [""])[0]
        try:
            known = await run_in_threadpool(self._apply, choice, number)
        except (ValueError, OSError) as error:
            return await run_in_threadpool(self._page, self._ballot.current(), str(error))
        if not known:
            return PlainTextResponse("There is no such choice.", status_code=400)
        return RedirectResponse("/", status_code=303)

    def _apply(self, choice: str, number: str) -> bool:
        """Do what a form asks for; False for a choice or a pair that does not exist."""
        if choice == "undo":
            self._ballot.undo()
            return True
        if choice == "again":
            self._ballot.show_skipped()
            return True
        if not (number.isascii() and number.isdecimal()) or int(number) >= len(self._ballot.pairs):
            return False
        if choice == "skip":
            self._ballot.skip(int(number))
            return True
        if choice in _CHOICES:
            self._ballot.vote(int(number), _CHOICES[choice])
            return True
        return False

    def _page(self, number: int | None, problem: str = "") -> "Response":
        from starlette.responses import HTMLResponse

        ballot = self._ballot
        text = self._templates.get_template("ballot.html.j2").render(
            project=ballot.project,
            annotator=ballot.annotator,
            note=ballot.note,
            next_step=ballot.next_step,
            number=number,
            prompt="" if number is None else ballot.pairs[number].prompt,
            num_pairs=len(ballot.pairs),
            num_voted=ballot.num_voted,
            num_skipped=ballot.num_skipped,
            can_undo=bool(ballot.cast),
            problem=problem,
        )
        return HTMLResponse(text, status_code=503 if problem else 200)


class _Guard:
    """Refuses requests that do not come from the page of the person who started it; adds headers to every answer."""

    def __init__(self, app: "Starlette", token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        from starlette.datastructures import MutableHeaders
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            return

        async def send_with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        fault = self._fault(Request(scope))
        app = PlainTextResponse(fault, status_code=403) if fault else self._app
        await app(scope, receive, send_with_headers)

    def _fault(self, request: "Request") -> str:
        """Return the reason to refuse a request; empty if there is none."""
        host = request.headers.get("host", "")
        if _host_name(host) not in _HOSTS:
            return f"This page answers only to {' and '.join(_HOSTS)}."
        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD") and (
            (origin is not None and origin != f"http://{host}")
            or request.headers.get("sec-fetch-site", "same-origin") != "same-origin"
        ):
            return "This form was sent by another site."
        given = request.cookies.get(_cookie_name(request.url.port), "")
        if request.method == "GET" and request.url.path == "/":
            given = request.query_params.get("token", given)
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return "Open the address that `plumbline vote` printed, with its token."
        return ""


def _host_name(host: str) -> str:
    """Return the name of a Host header, without the port; empty for a malformed one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie_name(port: int | None) -> str:
    """Return a name for each port: a browser sends the cookies of a host to all its ports."""
    return f"plumbline_ballot_{port or 80}"


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ValueError(
            f"Port {port} on {LOOPBACK} is in use ({error.strerror}). Stop the program that uses it, or give another"
            " --port (0 takes a free one)."
        ) from error
    return listener
