"A headless Chromium that presses keys and says what it shows, no network; tests skip where there is none."

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}


class Browser:
    "One page in one Chromium, driven through its DevTools protocol on loopback"

    def __init__(self, folder, width=1400, height=1000):
        websocket = pytest.importorskip("websocket", reason="no websocket-client: it comes with jupyterlab")
        command = [
            CHROMIUM,
            *QUIET.split(),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder}",
            f"--window-size={width},{height}",
            "--remote-debugging-port=0",
            "--remote-allow-origins=*",
            "about:blank",
        ]
        self.process, self.count = (
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            itertools.count(1),
        )
        port = self._wait(lambda: (folder / "DevToolsActivePort").read_text().split()[0], OSError, IndexError)
        pages = self._wait(
            lambda: (
                [p for p in json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")) if p["type"] == "page"]
                or 1 / 0
            ),
            OSError,
            ZeroDivisionError,
        )
        self.socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=60)
        self.complaints = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def _wait(self, of, *errors):
        for _ in range(600):
            try:
                return of()
            except errors:
                time.sleep(0.05)
        raise TimeoutError("Chromium did not come up")

    def call(self, method, **params):
        n = next(self.count)
        self.socket.send(json.dumps(dict(id=n, method=method, params=params)))
        while (answer := json.loads(self.socket.recv())).get("id") != n:
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"]))
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path, address=""):
        self.call("Page.navigate", url=path.as_uri() + address)
        self._wait(
            lambda: self("document.readyState === 'complete' && location.href !== 'about:blank'") or 1 / 0,
            ZeroDivisionError,
        )
        self("new Promise(done => setTimeout(done, 50))")

    def __call__(self, script):
        "The value of an expression in the page"
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *keys):
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=KEYS.get(key, ord(key.upper()[0])),
                    **({"text": text} if text and kind == "keyDown" else {}),
                )
            self("new Promise(done => setTimeout(done, 20))")  # an address that changes is told about in the next turn

    def picture(self, file, dark=False):
        self.call(
            "Emulation.setEmulatedMedia",
            features=[dict(name="prefers-color-scheme", value="dark" if dark else "light")],
        )
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
