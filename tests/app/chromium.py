"""The system's Chromium, which playwright steers; playwright's own would have to be downloaded."""

import os
import shutil
from contextlib import contextmanager

ARGUMENTS = ["--no-proxy-server", "--disable-gpu", "--disable-background-networking"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def opened():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM,
            chromium_sandbox=os.geteuid() != 0,
            args=ARGUMENTS,
        )
        yield browser
        browser.close()


def tab_to(tab, focused, presses=30):
    """Press the key Tab, so many times at most, until an element that the selector matches has the focus."""
    for _ in range(presses):
        tab.keyboard.press("Tab")
        if tab.evaluate(f"document.activeElement.matches({focused!r})"):
            return
    raise AssertionError(f"the key Tab does not lead to {focused}")
