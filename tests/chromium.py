"""Headless Chromium, held by its own debugging protocol: any size of window, any moment.

aiohttp brings the web socket; its loop runs only while an answer is waited for.
"""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time

import cv2
import numpy as np
from needs import require

_START_S, _ANSWER_S = 90.0, 40.0


class Chromium:
    """A browser with one tab, as long as it is open.

    Args:
        folder: of its own, for its profile.
    """

    def __init__(self, folder):
        self._folder = str(folder)
        self._number = 0
        self._loop = asyncio.new_event_loop()
        self.problems = []  # what the page complained of: broken scripts, blocked resources
        self.requests = []  # addresses it asked for

    def __enter__(self):
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        require(program, "Chromium (apt install chromium)")
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        command += ["--disable-component-update", "--user-data-dir=" + self._folder]
        command += ["--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._loop.run_until_complete(self._connect())
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(domain + ".enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()
        session = getattr(self, "_session", None)
        if session is not None:
            self._loop.run_until_complete(session.close())
        self._loop.close()

    async def _connect(self):
        import aiohttp

        path = os.path.join(self._folder, "DevToolsActivePort")
        deadline = time.monotonic() + _START_S
        while not (os.path.exists(path) and open(path).read().count("\n")):
            assert time.monotonic() < deadline and self._process.poll() is None, "no Chromium"
            await asyncio.sleep(0.05)
        address = "http://127.0.0.1:" + open(path).read().splitlines()[0]
        self._session = aiohttp.ClientSession()
        while True:
            async with self._session.get(address + "/json") as answer:
                tabs = [one for one in await answer.json() if one["type"] == "page"]
            if tabs:
                break
            await asyncio.sleep(0.05)
        self._socket = await self._session.ws_connect(
            tabs[0]["webSocketDebuggerUrl"], max_msg_size=0
        )

    def call(self, method, **parameters):
        """One command of the protocol; its result."""
        work = asyncio.wait_for(self._call(method, parameters), _ANSWER_S)
        return self._loop.run_until_complete(work)

    async def _call(self, method, parameters):
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": parameters}
        await self._socket.send_str(json.dumps(command))
        while True:
            message = json.loads((await self._socket.receive()).data)
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message):
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(given["exceptionDetails"]))
        elif method == "Log.entryAdded" and given["entry"]["source"] != "network":
            self.problems.append(given["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])

    def open(self, url, width=1280, height=800, scheme="dark"):
        """Go to a page, in a window of this size."""
        self.resize(width, height, scheme)
        self.call("Page.navigate", url=url)
        self.wait("document.readyState !== 'loading' && location.href !== 'about:blank'")

    def resize(self, width, height, scheme="dark"):
        """Give the window a size (CSS pixels) and a colour scheme; narrow ones are phones."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        wish = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=wish)

    def evaluate(self, expression):
        """The value of a piece of JavaScript."""
        given = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def wait(self, expression, seconds=40.0):
        """Wait until a piece of JavaScript is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, (expression, self.text(), self.problems)
            time.sleep(0.05)

    def text(self):
        """What can be read on the page."""
        return self.evaluate("document.body ? document.body.innerText : ''")

    def screenshot(self, whole=False):
        """The window, or the whole page, as (H, W, 3) BGR."""
        given = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        data = np.frombuffer(base64.b64decode(given["data"]), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR)
