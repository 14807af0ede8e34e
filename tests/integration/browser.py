"""A person at a browser: the host's Chromium, driven through the pages of Airflow and MLflow.

With PLUMBLINE_SCREENSHOTS=FOLDER each page that a test names is saved there at 1440 pixels, for the documentation.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PAGE_MILLISECONDS = 60_000
SETTLE_MILLISECONDS = 2_500
"""Time in which charts and grids that were just loaded are drawn, before a screenshot."""


REPLACE_TEXT = """([old, new]) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.nodeValue = texts.currentNode.nodeValue.replaceAll(old, new);
}"""
SHOWN_FOLDER = "/srv/plumbline"
"""Stands in pictures for the temporary folder of the test."""


@dataclass(frozen=True)
class Person:
    """One person's window, logged in to Airflow."""

    page: Page
    airflow: str
    mlflow: str
    folder: str
    """Folder with all state of the platform."""

    def open(self, address: str) -> Page:
        """Open a page by its whole address."""
        self.page.goto(address)
        return self.page

    def sees(self, text: str) -> None:
        """Wait until the page shows this text."""
        expect(self.page.get_by_text(text).first).to_be_visible()

    def keep(self, name: str) -> None:
        """Save the page as a picture, where the environment asks for it."""
        folder = os.environ.get("PLUMBLINE_SCREENSHOTS")
        if not folder:
            return
        self.page.wait_for_timeout(SETTLE_MILLISECONDS)
        close = self.page.get_by_role("button", name="Close", exact=True).last
        if self.page.url.startswith(self.mlflow) and close.is_visible():  # The assistant beside every page of MLflow.
            close.click()
            self.page.wait_for_timeout(SETTLE_MILLISECONDS)
        self.page.evaluate(REPLACE_TEXT, [self.folder, SHOWN_FOLDER])
        self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """The host's Chromium without a window."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    assert found, f"This test drives a browser. Install one of {', '.join(CHROMIUM)}, e.g. `apt install chromium`."
    expect.set_options(timeout=PAGE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def log_in(browser: Browser, user: str, password: str, *, airflow: str, mlflow: str, folder: str) -> Person:
    """Open a window and log in to Airflow as a user."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(PAGE_MILLISECONDS)
    page.goto(f"{airflow}/auth/login?next={airflow}/")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(f"{airflow}/")
    return Person(page, airflow, mlflow, folder)
