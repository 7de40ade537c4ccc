# SPDX-License-Identifier: Apache-2.0
"""A page in headless Chromium, driven over the DevTools protocol: its looks and its complaints."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

DEADLINE_S = 60.0
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Page:
    """One open page. ``complaints`` has console errors, exceptions and failed or attempted requests."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events that arrive meanwhile are taken note of."""
        number = next(self._ids)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=DEADLINE_S)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]  # type: ignore[no-any-return]
            self._note(message)

    async def open(self, file: Path, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Load ``file`` in a window of ``width`` CSS pixels; a phone's below 600."""
        await self.command("Page.enable")
        await self.command("Runtime.enable")
        await self.command("Log.enable")
        await self.command("Network.enable")
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.command("Emulation.setEmulatedMedia", features=scheme)
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.command("Page.navigate", url=file.as_uri())
        await until(lambda: self.value("document.readyState === 'complete'"), "the page to load")

    async def value(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression in the page."""
        result = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        result = await self.command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(result["data"])

    async def pdf(self) -> bytes:
        """The page as printed."""
        result = await self.command("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(result["data"])

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith(("file:", "data:")):
                self.complaints.append(f"request to {url}")


@contextlib.asynccontextmanager
async def page(profile: Path) -> AsyncIterator[Page]:
    """A fresh page of a fresh Chromium, which keeps its files in ``profile``."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, "Chromium is missing: apt-get install chromium"
    argv = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    argv += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = await _port(profile / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                targets = await response.json()
            address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        process.wait(timeout=DEADLINE_S)


async def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that Chromium writes down once it listens."""

    async def written() -> bool:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        return file.exists() and "\n" in file.read_text()

    await until(written, "Chromium to start")
    return int(file.read_text().split()[0])


async def until(fact: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for ``fact``; fails the test when it does not come true in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not await fact():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        await asyncio.sleep(0.02)
