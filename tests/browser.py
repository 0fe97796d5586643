"""Pages in a real browser: a folder served on this machine, and headless Chromium driven through Selenium."""

import base64
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# Chromium asks nobody on the network: its own services are off.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing about what is asked for."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of `folder`, without a slash at its end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def chromium(folder: Path, size: tuple[int, int] = (1000, 900), dark: bool = False) -> Iterator[Any]:
    """A Selenium driver of a fresh Chromium, whose profile lies in `folder`; skips where there is none.

    `size` is that of the window in pixels; `dark` is whether pages are asked to be.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    made = webdriver.Chrome(options=options, service=service)
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        made.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield made
    finally:
        made.quit()


def complaints(driver: Any) -> list[str]:
    """What the page's console said since it was last asked."""
    return [entry["message"] for entry in driver.get_log("browser")]


def screenshot(driver: Any, path: Path) -> None:
    """The whole page, however long, as a PNG."""
    width, height = driver.execute_script(
        "return [innerWidth, Math.max(document.documentElement.scrollHeight, innerHeight)]"
    )
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))
