"""Debian's chromium, driven by playwright; nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


def chromium() -> str | None:
    """Its path, or None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """A headless chromium with a profile of its own, ended afterwards."""
    from playwright.sync_api import sync_playwright

    program = chromium()
    assert program, "chromium is not installed: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def page(opened: Any, address: str, *, width: int = 1280, dark: bool = False) -> Iterator[Any]:
    """A page in a window of its own; `page.heard` is what the console and the page's errors said, `page.asked` every request."""
    context = opened.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", has_touch=width < 600
    )
    tab = context.new_page()
    tab.heard, tab.asked = [], []
    tab.on("console", lambda message: tab.heard.append(message.text))
    tab.on("pageerror", lambda error: tab.heard.append(str(error)))
    tab.on("request", lambda request: tab.asked.append(request.url[:100]))
    tab.goto(address)
    try:
        yield tab
    finally:
        context.close()


def axe(tab: Any) -> list[dict[str, Any]]:
    """What axe-core finds wrong with the page."""
    import axe_playwright_python

    tab.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = tab.evaluate("axe.run().then(({violations}) => violations)")
    return found
