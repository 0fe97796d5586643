"""A headless Chromium for tests: what a page says on its console, asks of the network, and looks like."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
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
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def browser_missing() -> str:
    """Why no page can be opened here; empty where one can."""
    if not (_program(BROWSERS) and _program(DRIVERS)):
        return "no Chromium with its driver: apt-get install chromium chromium-driver"
    return ""


def _program(names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


@dataclass(frozen=True)
class Screen:
    """What a page is looked at on."""

    width: int
    height: int
    dark: bool = False
    phone: bool = False


DESKTOP, NIGHT, PHONE = Screen(1280, 900), Screen(1280, 900, dark=True), Screen(390, 844, phone=True)


class Browser:
    """One page at a time, with fresh logs."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, screen: Screen) -> None:
        """Load a file; its logs begin here."""
        self.visit(path.resolve().as_uri(), screen)

    def visit(self, address: str, screen: Screen = DESKTOP) -> None:
        """Load what is at an address; its logs begin here."""
        self.driver.get("about:blank")
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=screen.width,
            height=screen.height,
            deviceScaleFactor=2 if screen.phone else 1,
            mobile=screen.phone,
        )
        scheme = "dark" if screen.dark else "light"
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(address)

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def run(self, script: str) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened, its own among them."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def shoot(self, path: Path, whole: bool = True) -> None:
        """A picture of the page, or of what is on the screen of it."""
        shot = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


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
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser of its own, with the profile in an empty folder."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(_program(BROWSERS))
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(_program(DRIVERS)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
