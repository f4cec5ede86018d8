"""A real Chromium that opens a report from disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "msedge", "chrome")
DESKTOP = (1280, 720)


def find_browser() -> str | None:
    """The installed Chromium; the variable CHROMIUM names another."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def start_browser() -> Iterator[Browser]:
    """The installed Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page opened from disk, with all that it complained about and all that it asked for."""

    def __init__(self, browser: Browser, path: Path, size: tuple[int, int] = DESKTOP, script: str = "", **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True, **options)
        if script:
            self.context.add_init_script(script)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.resolve().as_uri()
        self.page.goto(self.address)

    def require_quiet(self) -> None:
        """Fails on a console message, an error, or a request for anything but the file itself."""
        assert not self.complaints
        assert {url for url in self.requests if not url.startswith("blob:")} == {self.address}

    def close(self) -> None:
        self.context.close()


def take_screenshot(
    report: Path, target: Path, *, size: tuple[int, int] = DESKTOP, dark: bool = False, whole: bool = False, press: str = "",
    place: str = "",
) -> None:
    """A PNG of a report's first page, or of the `whole` page; after scrolling to `place` and pressing a key, if named."""

    def shoot() -> None:
        with start_browser() as browser:
            visit = Visit(browser, report, size, color_scheme="dark" if dark else "light")
            if place:
                visit.page.locator(place).first.evaluate("element => element.scrollIntoView({behavior: 'instant'})")
            if press:
                visit.page.keyboard.press(press)
            visit.page.wait_for_timeout(150)
            visit.page.screenshot(path=target, full_page=whole)
            visit.close()

    # Playwright allows one browser a thread: a test module may have one open.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(shoot).result()
