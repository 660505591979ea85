"""A real Chromium, driven over its DevTools protocol: pages opened, keys pressed, pictures taken.

with Browser() as browser:
    with browser.page() as page:
        page.open("http://127.0.0.1:9465/#/live")
        page.until("document.querySelector('h1')?.textContent == 'Live'")
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

T = TypeVar("T")

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
PATIENCE_SECONDS = 90.0
"""Only what hangs ever meets it."""
_LARGEST = 256 * 1024 * 1024
_POLL_SECONDS = 0.02


class Browser:
    """One process from entering to leaving, without a window, with an empty profile."""

    def __enter__(self) -> Self:
        assert PROGRAM, "these tests need a Chromium: apt-get install chromium"
        self._loop = asyncio.new_event_loop()
        self._profile = tempfile.TemporaryDirectory(prefix="extproc-chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                PROGRAM,
                "--headless=new",
                "--no-sandbox",  # CI runs as root, and what it opens is ours
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-extensions",
                "--no-first-run",
                "--hide-scrollbars",
                "--host-resolver-rules=MAP evil.test 127.0.0.1",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._profile.name}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": self._profile.name},
            start_new_session=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if match := re.search(rb"DevTools listening on (ws://\S+)", line):
                self._address = match[1].decode()
                break
        else:
            raise AssertionError("Chromium did not start")
        self.run(self._connect())
        return self

    def __exit__(self, *exception: object) -> None:
        self._reading.cancel()
        self.run(self._disconnect())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a group of its own, made by us
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._loop.close()
        self._profile.cleanup()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop of the connection."""

        async def limited() -> T:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await work

        return self._loop.run_until_complete(limited())

    async def _connect(self) -> None:
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._client = aiohttp.ClientSession()
        self._socket = await self._client.ws_connect(self._address, max_msg_size=_LARGEST)
        self._reading = asyncio.create_task(self._read())

    async def _disconnect(self) -> None:
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._socket.close()
        await self._client.close()

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            else:
                self.events.append(said)

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command, and its result."""
        self._number += 1
        number = self._number
        self._waiting[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(command | ({} if session is None else {"sessionId": session}))
        said = await self._waiting[number]
        assert "error" not in said, (method, said["error"])
        found: dict[str, Any] = said["result"]
        return found

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """A tab of its own, in a context without storage of others."""
        context = self.run(self.send("Target.createBrowserContext"))["browserContextId"]
        made = self.run(self.send("Target.createTarget", url="about:blank", browserContextId=context))
        attached = self.run(self.send("Target.attachToTarget", targetId=made["targetId"], flatten=True))
        page = Page(self, attached["sessionId"], context)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        try:
            yield page
        finally:
            self.run(self.send("Target.disposeBrowserContext", browserContextId=context))


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._context = context
        self._browser = browser
        self._session = session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol."""
        return self._browser.run(self._browser.send(method, self._session, **parameters))

    def open(self, url: str) -> None:
        """Go there, and wait until the document is loaded."""
        self.send("Page.navigate", url=url)
        self.until(
            f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url.partition('#')[0])})"
        )

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """How large the window is, and which colours its user wants."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """What an expression is, or comes to."""
        said = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true. Nodes and the like are true, as for JavaScript."""
        is_true = f"Promise.resolve({expression}).then(Boolean)"

        async def wait() -> None:
            while True:
                said = await self._browser.send(
                    "Runtime.evaluate", self._session, expression=is_true, awaitPromise=True, returnByValue=True
                )
                if said["result"].get("value") is True:
                    return
                await asyncio.sleep(_POLL_SECONDS)

        try:
            self._browser.run(wait())
        except TimeoutError:
            seen = self.evaluate("document.body.innerText.slice(0, 2000)")
            raise AssertionError(f"never came: {expression}; seen: {seen}; {self.complaints()}") from None

    def press(self, key: str) -> None:
        """A key: one character, or Enter, Tab, Escape."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        code = codes.get(key, ord(key[0].upper()))
        down: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, **({"text": text} if text else {})}
        self.send("Input.dispatchKeyEvent", type="keyDown", **down)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """A text, where the focus is."""
        self.send("Input.insertText", text=text)

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def point_at(self, selector: str) -> None:
        """Move the mouse to the middle of an element, and wait until the browser knows."""
        element = f"document.querySelector({json.dumps(selector)})"
        middle = "(({ x, y, width, height }) => [x + width / 2, y + height / 2])"
        self.point(*self.evaluate(f"{middle}({element}.getBoundingClientRect())"))
        self.until(f"{element}.matches(':hover')")

    def allow_clipboard(self) -> None:
        """Let the page read and write it, as one that a person has in front of them."""
        permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self._browser.run(
            self._browser.send("Browser.grantPermissions", permissions=permissions, browserContextId=self._context)
        )
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def picture(self, path: Path) -> None:
        """What is to be seen, as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _own(self, method: str) -> Iterator[dict[str, Any]]:
        for event in self._browser.events:
            if event.get("sessionId") == self._session and event["method"] == method:
                yield event["params"]

    def complaints(self) -> list[str]:
        """What the page's code or the browser found wrong."""
        thrown = [str(each["exceptionDetails"].get("exception", each)) for each in self._own("Runtime.exceptionThrown")]
        logged = (each["entry"] for each in self._own("Log.entryAdded"))
        return [*thrown, *(each["text"] for each in logged if each["level"] == "error")]

    def asked(self) -> list[str]:
        """Every address that was asked for something."""
        return [each["request"]["url"] for each in self._own("Network.requestWillBeSent")]
