# SPDX-License-Identifier: LGPL-2.1-or-later
"""A headless Chromium, steered over a pipe by the DevTools protocol; it reaches no network.

https://chromedevtools.github.io/devtools-protocol/ has the methods and events named here.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "chromium"
PATIENCE_S = 60.0
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip


def missing() -> str:
    """Say what is missing on this machine; nothing where all is there."""
    return "" if shutil.which(PROGRAM) else f"there is no {PROGRAM}: ci/setup --full installs it"


class BrowserError(Exception):
    """The browser ended, did not answer in time, or refused."""


class Browser:
    """One browser process. Use as a context manager."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # It reads commands from descriptor 3 and writes to 4.
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, PROGRAM, *OPTIONS, f"--user-data-dir={self._home.name}"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._home.name},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._buffer = b""
        self._last_id = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)  # it ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._home.cleanup()

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result.

        Raises:
            BrowserError: it failed.
        """
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next(f"an answer to {method}")
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def next(self, what: str) -> dict[str, Any]:
        """Return the next message; an event is kept in `events`, too.

        Raises:
            BrowserError: none came.
        """
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, until - time.monotonic()))[0]:
                raise BrowserError(f"no word of {what} in {PATIENCE_S:.0f} s")
            data = os.read(self._in, 1 << 16)
            if not data:
                raise BrowserError(f"the browser ended before {what}")
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, file: Path, *, width: int = 1024, dark: bool = False, media: str = "") -> Page:
        """Open a file as a reader would whose system is light or dark, on the screen or printed."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable", session)
        self.ask(
            "Emulation.setDeviceMetricsOverride", session,
            width=width, height=100, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", session, media=media, features=[scheme])
        page = Page(self, session)
        self.ask("Page.navigate", session, url=file.as_uri())
        while not page.heard("Page.loadEventFired"):
            self.next(f"{file} being loaded")
        return page


class Page:
    """A page that is loaded."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def heard(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of all events of these kinds so far."""
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] in methods
        ]

    def complaints(self) -> list[str]:
        """Return what was written to the console, by the page or about it, and dialogs that it opened."""
        kinds = (
            "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown",
            "Page.javascriptDialogOpening",
        )  # fmt: skip
        return [json.dumps(found) for found in self.heard(*kinds)]

    def requests(self) -> list[str]:
        """Return the addresses of all that was asked for, the page itself first."""
        return [found["request"]["url"] for found in self.heard("Network.requestWillBeSent")]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript in the page.

        Raises:
            BrowserError: it threw.
        """
        answer = self._browser.ask(
            "Runtime.evaluate", self._session, expression=expression, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def picture(self, height: int | None = None) -> bytes:
        """Return the page as PNG, down to `height` or to its end."""
        size = self._browser.ask("Page.getLayoutMetrics", self._session)["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": size["width"], "height": height or size["height"]}
        answer = self._browser.ask(
            "Page.captureScreenshot", self._session, captureBeyondViewport=True, clip=clip
        )
        return base64.b64decode(answer["data"])

    def printed(self) -> bytes:
        """Return the page as it is printed, as PDF."""
        answer = self._browser.ask("Page.printToPDF", self._session, printBackground=False)
        return base64.b64decode(answer["data"])
