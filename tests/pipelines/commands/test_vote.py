"""`plumbline vote` as a person uses it: the command in a terminal, the page in the host's Chromium."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import cli

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "tests" / "integration"))
from browser import open_browser  # noqa: E402

COMMAND = [sys.executable, "-c", "import sys; from pipelines.commands.cli import main; sys.exit(main(sys.argv[1:]))"]

HASTY = """addEventListener("DOMContentLoaded", () => {
    document.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
});"""
"""A key pressed as soon as a page is there, for a pair whose pictures nobody saw yet."""


def rows_of(judged_project: Any) -> list[tuple[Any, ...]]:
    """Prompt, preference, left generator, annotator and image of each vote."""
    connection = sqlite3.connect(judged_project.votes)
    found = connection.execute(
        "SELECT prompt, preference, generator_0, annotator, image_0 FROM feedback_votes ORDER BY id"
    ).fetchall()
    connection.close()
    return found


@contextmanager
def voting(judged_project: Any, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the command; yield the printed address and the process, which the body may end."""
    process = subprocess.Popen(
        [*COMMAND, "vote", str(judged_project.path), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stderr is not None
        address = ""
        while not address and (line := process.stderr.readline()):
            address = "".join(re.findall(r"http://\S+", line))
        assert address, "the command printed no address"
        yield address, process
    finally:
        process.kill()
        process.communicate()


def stop(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Press Ctrl-C; return the printed summary."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False), err
    found: dict[str, Any] = json.loads(out)
    return found


def keep(page: Any, name: str) -> None:
    """Save the page as a picture, where the environment asks for it."""
    if folder := os.environ.get("PLUMBLINE_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.mark.loop
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_person_votes_from_the_keyboard_and_continues_another_day(judged_project: Any) -> None:
    assert cli.main(["feedback", "init", str(judged_project.path)]) == cli.DONE
    with open_browser() as browser:
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        with voting(judged_project, "--pairs", "5", "--annotator", "ada") as (address, process):
            page.goto(address)
            assert page.url == address.partition("?")[0], "the token leaves the address"
            keep(page, "vote")
            prompts = []
            for number, key in enumerate(("ArrowLeft", "ArrowDown", "ArrowRight")):
                prompts.append(page.locator("blockquote").inner_text())
                page.wait_for_selector("body[data-ready=yes]")
                assert len(rows_of(judged_project)) == number
                press(page, key)
                assert len(rows_of(judged_project)) == number + 1, "before the next pair is shown"
            assert page.locator(".count").inner_text() == "3 of 5"
            fourth = page.locator("blockquote").inner_text()
            press(page, "s")
            assert page.locator("blockquote").inner_text() != fourth
            press(page, "u")
            assert page.locator("blockquote").inner_text() == fourth
            page.reload()
            assert page.locator("blockquote").inner_text() == fourth, "a reload shows the same pair"
            votes = rows_of(judged_project)
            assert [(row[0], row[1], row[3]) for row in votes] == [
                (prompt, preference, "ada") for prompt, preference in zip(prompts, (1.0, 0.5, 0.0), strict=True)
            ]
            assert stop(process) == {
                **{"annotator": "ada", "pairs": 5, "voted": 3, "voted_now": 3},
                "next": f"plumbline gate people {judged_project.path}",
            }
        with voting(judged_project, "--pairs", "5", "--annotator", "ada") as (address, process):
            page.goto(address)
            assert page.locator("blockquote").inner_text() == fourth
            for _ in range(2):
                page.wait_for_selector("body[data-ready=yes]")
                press(page, "ArrowLeft")
            page.get_by_text("All 5 pairs have your vote").wait_for()
            keep(page, "vote_done")
            assert stop(process)["voted_now"] == 2
        assert len(rows_of(judged_project)) == 5
        assert faults == [], "nothing is blocked by the page's own policy"


def press(page: Any, key: str) -> None:
    """Press a key that leads to another page, and wait for it."""
    with page.expect_navigation():
        page.keyboard.press(key)
    page.wait_for_selector("#ballot")


@pytest.mark.loop
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_pictures_on_the_page_are_those_of_the_vote_and_hasty_keys_do_nothing(judged_project: Any) -> None:
    assert cli.main(["feedback", "init", str(judged_project.path)]) == cli.DONE
    with voting(judged_project) as (address, process), open_browser() as browser:
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.add_init_script(HASTY)
        page.goto(address)
        for _ in range(4):
            page.wait_for_selector("body[data-ready=yes]")
            shown = page.request.get(f"{page.url}{page.locator('img').first.get_attribute('src')}").body()
            press(page, "ArrowLeft")
            assert rows_of(judged_project)[-1][4] == shown
        assert len(rows_of(judged_project)) == 4
        page.wait_for_selector("body[data-ready=yes]")
        page.locator("img").first.dblclick()
        page.wait_for_timeout(500)
        assert len(rows_of(judged_project)) == 5, "a double click is one vote"
        stop(process)


@pytest.mark.loop
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_fits_a_phone_and_works_without_its_script(judged_project: Any) -> None:
    assert cli.main(["feedback", "init", str(judged_project.path)]) == cli.DONE
    with voting(judged_project) as (address, process), open_browser() as browser:
        small = {"width": 390, "height": 780}
        page = browser.new_context(viewport=small, java_script_enabled=False, has_touch=True).new_page()
        page.goto(address)
        keep(page, "vote_phone")
        for name in ("A is better", "Tie", "B is better", "Skip"):
            box = page.get_by_role("button", name=name).last.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= small["width"]
            assert box["y"] + box["height"] <= small["height"], f"{name} is visible without scrolling"
        page.get_by_role("button", name="B is better").last.tap()
        page.locator(".count").get_by_text("1").wait_for()
        assert [row[1] for row in rows_of(judged_project)] == [0.0]
        stop(process)


def test_what_a_person_has_to_fix_is_one_message(judged_project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(judged_project.path)

    def refused(*words: str) -> str:
        assert cli.main(["vote", *words]) == cli.BAD_INPUT
        return capsys.readouterr().err

    assert "Run `plumbline feedback init` first" in refused(path)
    assert cli.main(["feedback", "init", path]) == cli.DONE
    capsys.readouterr()
    assert "--annotator is empty" in refused(path, "--annotator", " ")
    assert "Invalid value for '--pairs'" in refused(path, "--pairs", "0")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert f"Port {port} on 127.0.0.1 is in use" in refused(path, "--port", port)
    text = judged_project.path.read_text()
    judged_project.path.write_text(text[: text.index('[[sources]]\nname = "votes"')])
    assert 'kind = "feedback"' in refused(path)
