"""A headless Chromium driven over its debugging pipe, with nothing but the standard library.

It speaks the DevTools protocol: JSON messages, each ended by a zero byte, on descriptors 3 (in) and 4 (out).
"""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_S = 60.0
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-first-run",
           "--remote-debugging-pipe", "--window-size=1400,900")
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), "ArrowDown": (40, ""), "ArrowUp": (38, ""),
        "End": (35, ""), "Home": (36, "")}


class Page:
    """One page. `problems` holds whatever the browser complained of, `requests` the addresses that it asked for."""

    def __init__(self, out: int, into: int) -> None:
        self._out, self._into, self._buffer, self._id, self._session = out, into, b"", 0, ""
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """The answer to one command. Raises RuntimeError for a refusal, TimeoutError without an answer."""
        self._id += 1
        command = {"id": self._id, "method": method, "params": parameters}
        command |= {"sessionId": self._session} if self._session else {}
        os.write(self._into, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self._id:
            self._note(message.get("method"), message.get("params", {}))
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def open(self, path: Path, view: str = "") -> None:
        """Load a file at a view (what follows `#` in the address) and wait until it is drawn."""
        self.send("Page.navigate", url="about:blank")
        self.requests.clear()
        self.send("Page.navigate", url=f"{path.resolve().as_uri()}#{view}")
        self.wait("document.readyState === 'complete' && document.querySelector('#scatter canvas')")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it is."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition}; problems: {self.problems}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        code, text = KEYS[key]
        for kind, typed in (("keyDown", text), ("keyUp", "")):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=typed)

    def hover(self, selector: str, *, click: bool = False) -> None:
        found = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{found}.scrollIntoView({{block: 'center', inline: 'nearest'}})")
        box = self.run(f"{found}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._out], [], [], TIMEOUT_S)[0]:
                raise TimeoutError("no answer from the browser")
            read = os.read(self._out, 1 << 20)
            if not read:
                raise RuntimeError("the browser ended")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, method: str | None, content: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(content["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.problems.append(str(content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.problems.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A fresh browser with its profile in a folder of its own; gone at the end."""
    assert BINARY is not None
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (1, 2)]
    # By way of high numbers: a pipe's own end may be 3 or 4 itself.
    pipes = [(os.POSIX_SPAWN_DUP2, in_read, 198), (os.POSIX_SPAWN_DUP2, out_write, 199),
             (os.POSIX_SPAWN_DUP2, 198, 3), (os.POSIX_SPAWN_DUP2, 199, 4)]
    pid = os.posix_spawn(BINARY, [BINARY, *OPTIONS, f"--user-data-dir={profile}"], dict(os.environ),
                         file_actions=[*silent, *pipes], setsid=True)
    os.close(in_read)
    os.close(out_write)
    try:
        yield Page(out_read, in_write)
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(in_write)
        os.close(out_read)
