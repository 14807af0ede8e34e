"""The ballot's page over HTTP: who may open it, what it tells, and that a vote is written once."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.platform.ballot.server import make_app, serve

ROOT = Path(__file__).parents[4]
TOKEN = "t0ken-of-the-test"
ADDRESS = "http://127.0.0.1:8777"
SECRETS = ("candidate", "champion", "base", "version", "cafe12", "beef34", "samples", "store", "tiny version")


def browser(ballot: Any, *, logged_in: bool = True, address: str = ADDRESS) -> TestClient:
    client = TestClient(make_app(ballot, TOKEN), base_url=address, follow_redirects=False)
    if logged_in:
        answer = client.get("/", params={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return client


def vote(client: TestClient, choice: str, number: int | str = 0, **headers: str) -> Any:
    return client.post("/vote", data={"choice": choice, "number": str(number)}, headers=headers)


def test_the_page_needs_the_token_and_then_its_cookie(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    stranger = browser(written.ballot, logged_in=False)
    for path in ("/", "/?token=", "/?token=wrong", "/image/0/left", "/ballot.css", "/ballot.js", f"/x?token={TOKEN}"):
        assert stranger.get(path).status_code == 403, path
    assert vote(stranger, "left").status_code == 403
    assert stranger.post(f"/vote?token={TOKEN}", data={"choice": "left", "number": "0"}).status_code == 403
    assert written.votes == []
    client = browser(written.ballot)
    cookie = client.get("/", params={"token": TOKEN}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "plumbline_ballot_8777=" in cookie, "other ports of this host get other cookies"
    assert client.get("/").status_code == 200
    assert client.get("/?token=wrong").status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8777", "127.0.0.1.evil.example", "[", "", "localhost@x"]
)
def test_a_foreign_host_is_refused(ballot_of: Callable[..., Any], host: str) -> None:
    written = ballot_of()
    client = browser(written.ballot)
    assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.get("/", params={"token": TOKEN}, headers={"Host": host}).status_code == 403
    assert vote(client, "left", Host=host).status_code == 403
    assert written.votes == []


def test_a_tunnel_from_another_port_works(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    client = browser(written.ballot, address="http://localhost:9000")
    assert vote(client, "left", Origin="http://localhost:9000").status_code == 303
    assert len(written.votes) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_of_another_site_is_refused(ballot_of: Callable[..., Any], headers: dict[str, str]) -> None:
    written = ballot_of()
    assert vote(browser(written.ballot), "left", **headers).status_code == 403
    assert written.votes == []
    assert vote(browser(written.ballot), "left", Origin=ADDRESS, **{"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_nothing_but_the_pixels_differs_when_the_models_change_places(ballot_of: Callable[..., Any]) -> None:
    """With the models swapped, pages and headers of a whole ballot are equal, and every image is the other one."""
    clients = [browser(ballot_of(5, swapped=swapped).ballot) for swapped in (False, True)]
    for number in range(5):
        pages = [client.get("/") for client in clients]
        assert pages[0].text == pages[1].text
        assert pages[0].headers.multi_items() == pages[1].headers.multi_items()
        for side in ("left", "right"):
            images = [client.get(f"/image/{number}/{side}") for client in clients]
            assert images[0].content != images[1].content
            kept = [[item for item in i.headers.multi_items() if item[0] != "content-length"] for i in images]
            assert kept[0] == kept[1]
        answers = [vote(client, "left", number) for client in clients]
        assert answers[0].headers.multi_items() == answers[1].headers.multi_items()
    assert clients[0].get("/").text == clients[1].get("/").text


def test_no_page_or_header_names_a_model(ballot_of: Callable[..., Any]) -> None:
    client = browser(ballot_of(2).ballot)
    for number in (0, 1, 2):
        answers = [client.get("/"), client.get("/ballot.js"), client.get("/ballot.css")]
        answers += [client.get(f"/image/{number}/{side}") for side in ("left", "right")] if number < 2 else []
        for answer in answers:
            seen = str(answer.headers) + (answer.text if "image/" not in answer.headers["content-type"] else "")
            seen = seen.lower().replace("no-store", "").replace("base-uri", "").replace("baseline", "")
            assert [word for word in SECRETS if re.search(rf"\b{word}", seen)] == [], answer.url
        vote(client, "right", number)


def test_an_image_is_named_by_number_and_side_only(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    client = browser(written.ballot)
    pair = written.ballot.pairs[3]
    answer = client.get("/image/3/right")
    assert answer.content == b"\x89PNG " + pair.right.uri.encode()
    assert answer.headers["content-type"] == "image/png"
    for path in (
        *("/image/5/left", "/image/-1/left", "/image/0/middle", "/image/0", "/image/0/left/..", "/image/00000_0.png"),
        *("/ballot.html.j2", "/server.py", "/../server.py", "/%2e%2e/server.py", "/image/..%2f..%2fserver.py/left"),
    ):
        assert client.get(path).status_code == 404, path


def test_the_page_shows_prompt_keys_progress_and_name_and_escapes_them(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    written.ballot.annotator = "<b>ada</b>"
    client = browser(written.ballot)
    vote(client, "left", 0)
    page = client.get("/")
    assert "a &lt;fox&gt; &amp; number" in page.text
    assert "&lt;b&gt;ada" in page.text
    assert "<b>1</b> of 5" in page.text
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown", "s", "u"):
        assert f'data-key="{key}"' in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"https?://", page.text), "nothing from another server"


def test_each_choice_is_the_share_of_the_left_image(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    client = browser(written.ballot)
    for number, choice in enumerate(("left", "tie", "right")):
        answer = vote(client, choice, number)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert [preference for _, preference in written.votes] == [1.0, 0.5, 0.0]


def test_a_double_click_and_a_form_that_is_sent_again_write_one_vote(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    client = browser(written.ballot)
    assert [vote(client, choice).status_code for choice in ("left", "left", "right")] == [303, 303, 303]
    assert [preference for _, preference in written.votes] == [1.0]
    assert client.get("/").text == client.get("/").text


def test_skip_undo_and_again_over_the_page(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of(2)
    client = browser(written.ballot)
    vote(client, "skip", 0)
    vote(client, "left", 1)
    page = client.get("/").text
    assert "voted on 1 pairs and skipped 1" in page
    vote(client, "undo", "")
    assert written.withdrawn == [written.ballot.pairs[1].key]
    assert 'name="number" value="1"' in client.get("/").text
    vote(client, "left", 1)
    vote(client, "again", "")
    assert 'name="number" value="0"' in client.get("/").text
    vote(client, "left", 0)
    page = client.get("/").text
    assert "All 2 pairs have your vote" in page
    assert "plumbline gate people tiny" in page


@pytest.mark.parametrize(
    ("choice", "number"),
    [("left", "5"), ("left", "-1"), ("left", "x"), ("left", ""), ("best", "0"), ("", "0"), ("skip", "9")],
)
def test_a_form_that_the_page_does_not_send_is_refused(ballot_of: Callable[..., Any], choice: str, number: str) -> None:
    written = ballot_of()
    assert vote(browser(written.ballot), choice, number).status_code == 400
    assert written.votes == []


def test_a_large_form_is_refused_unread(ballot_of: Callable[..., Any]) -> None:
    client = browser(ballot_of().ballot)
    assert client.post("/vote", content=b"choice=left&number=0&" + b"x" * 5000).status_code == 413
    assert client.post("/vote", content=iter([b"choice=left&number=0"])).status_code == 413


def test_a_vote_that_cannot_be_written_is_reported_and_the_pair_stays(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    written.fault = ValueError("Source 'votes': the <disk> is full.")
    client = browser(written.ballot)
    answer = vote(client, "left")
    assert answer.status_code == 503
    assert "Nothing was recorded.</b> Source &#39;votes&#39;: the &lt;disk&gt; is full." in answer.text
    assert 'name="number" value="0"' in answer.text
    written.fault = None
    assert vote(client, "left").status_code == 303
    assert len(written.votes) == 1


def test_an_image_that_cannot_be_read_is_an_answer_without_its_address(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()

    def gone(uri: str) -> bytes:
        raise ValueError(f"{uri} does not exist.")

    written.ballot.read_image = gone
    answer = browser(written.ballot).get("/image/0/left")
    assert (answer.status_code, answer.text) == (503, "The image cannot be read.")


def test_a_port_in_use_is_one_clear_message(ballot_of: Callable[..., Any]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"Port {port} on 127\.0\.0\.1 is in use .*another --port"):
            serve(ballot_of().ballot, port=port, announce=lambda address: None)


SERVER = """
import sys
sys.path[:0] = {paths!r}
from conftest import make_ballot
from pipelines.platform.ballot.server import serve
serve(make_ballot().ballot, port=0, announce=lambda address: print(address, flush=True))
print("ended", flush=True)
"""


def test_the_server_listens_on_the_loopback_alone_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    code = SERVER.format(paths=[str(ROOT), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        port = int(address.rpartition(":")[2].partition("/")[0])
        assert f"{port:04X}" in {
            local.partition(":")[2]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if (local := line.split()[1]).startswith("0100007F:")
        }
        with pytest.raises(urllib.error.HTTPError, match="403"):  # this client keeps no cookie
            urllib.request.urlopen(address, timeout=20)
    finally:
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (out.strip(), process.returncode, err) == ("ended", 0, "")
