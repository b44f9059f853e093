"""The explorer as it runs: a server of its own, started from the command line, and a visit to its page in Chromium."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kc_interp.checkpoint import FILE_NAME, Checkpoint

CANDIDATES = ("chromium", "chromium-browser", "google-chrome")
LAPTOP, ZOOMED = (1280, 720), (640, 360)
"""A laptop's window, and what is left of it in CSS pixels at 200 % zoom."""

ROOT = Path(__file__).parent.parent


def saved(folder: Path, checkpoints: dict[str, Checkpoint]) -> list[Path]:
    """Each checkpoint in a run folder of its name."""
    for name, checkpoint in checkpoints.items():
        (folder / name).mkdir(parents=True)
        checkpoint.save(folder / name / FILE_NAME)
    return [folder / name for name in checkpoints]


class Running:
    """`kc-interp explore` in a process of its own, from the folder it is started in until `stop`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.complaints = folder / "stderr.txt"
        self._stderr = self.complaints.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kc_interp", "explore", "--no-open", "--json", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._answer: dict[str, Any] | None = None

    @property
    def answer(self) -> dict[str, Any]:
        """What the command says of itself once the page can be opened."""
        if self._answer is None:
            assert self.process.stdout is not None
            ready, _, _ = select.select([self.process.stdout], [], [], 90)
            line = self.process.stdout.readline() if ready else ""
            assert line, f"the explorer did not start: {self.said}"
            self._answer = json.loads(line)
        return self._answer

    @property
    def origin(self) -> str:
        return re.match(r"http://[^/]+", self.answer["url"])[0]  # type: ignore[index]

    @property
    def port(self) -> int:
        return int(self.origin.rpartition(":")[2])

    @property
    def said(self) -> str:
        """What it wrote to the terminal beside its answer."""
        return self.complaints.read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._stderr.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium; without one the tests are skipped with a word, or fail where a browser is required."""
    path = next(filter(None, map(shutil.which, CANDIDATES)), None)
    if path is None:
        missing = f"no Chromium in PATH (looked for {', '.join(CANDIDATES)}); Debian has it as `apt install chromium`"
        if os.environ.get("KC_INTERP_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """A window on the page, with whatever it complained of or asked the network for."""

    def __init__(self, browser: Any, origin: str, **context: Any) -> None:
        width, height = LAPTOP
        self.origin = origin
        self.context = browser.new_context(viewport={"width": width, "height": height}, **context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.pending: set[Any] = set()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._asked)
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, lambda request: self.pending.discard(request))
        # Seen by the page itself, whatever the console's level for it, and kept over its reloads.
        self._violations: list[str] = []
        self.page.expose_function("violated", lambda what: self._violations.append(what))
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => violated(`${e.violatedDirective} ${e.blockedURI}`))"
        )

    def _asked(self, request: Any) -> None:
        self.requests.append(request.url)
        if "/_dash-update-component" in request.url:
            self.pending.add(request)

    def open(self, address: str = "") -> Visit:
        """Go to an address of the page and wait until it stands."""
        self.pending.clear()
        self.page.goto(f"{self.origin}/{address}")
        self.wait("document.querySelector('#desk:not([hidden]) .side, #start:not(:empty)') !== null")
        return self.settle()

    def settle(self) -> Visit:
        """Until nothing is asked any more and what is in view is drawn."""
        calm = 0
        for _ in range(600):
            self.page.wait_for_timeout(25)
            drawn = self.page.evaluate(
                "[...document.querySelectorAll('.canvas')].every(c => !c.near || (c.dataset.drawn && c.island === c.dataset.island))"
            )
            calm = calm + 1 if drawn and not self.pending else 0
            if calm == 4:
                return self
        raise AssertionError(f"the page does not come to rest: {[request.post_data for request in self.pending]}")

    def draw_all(self) -> None:
        """Scroll every figure into view and wait until it is drawn."""
        for canvas in self.page.locator(".canvas").all():
            canvas.scroll_into_view_if_needed()
        self.wait("[...document.querySelectorAll('.canvas')].every(c => c.dataset.drawn)")
        self.settle()

    def resize(self, size: tuple[int, int]) -> None:
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.settle()

    def press(self, selector: str) -> None:
        """Click, and wait for what comes of it."""
        self.page.locator(selector).first.click()
        self.settle()

    def key(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def choose(self, selector: str, value: str) -> None:
        self.page.locator(selector).first.select_option(value)
        self.settle()

    def text(self, selector: str) -> str:
        """What an element says, on one line."""
        return re.sub(r"\s+", " ", self.page.locator(selector).first.inner_text()).strip()

    def texts(self, selector: str) -> list[str]:
        return [re.sub(r"\s+", " ", text).strip() for text in self.page.locator(selector).all_inner_texts()]

    @property
    def violations(self) -> list[str]:
        """What the policy refused, save one attempt of CircuitsVis to compile a module of WebAssembly (the `long`
        library's test for 64-bit products, which it catches and does without)."""
        return [refused for refused in self._violations if refused != "script-src wasm-eval"]

    @property
    def strangers(self) -> list[str]:
        """Requests that are not to the explorer's own origin."""
        return [url for url in self.requests if not url.startswith((f"{self.origin}/", "data:", "blob:"))]

    def hurry(self) -> None:
        """From the next opening on, the page waits a tenth as long before it says that there is no answer yet."""
        self.page.add_init_script(
            """{ const later = window.setTimeout, aborts = AbortSignal.timeout;
            window.setTimeout = (what, ms, ...more) => later(what, ms === 4000 ? 400 : ms, ...more);
            AbortSignal.timeout = ms => aborts.call(AbortSignal, ms / 10); }"""
        )

    def wait(self, expression: str) -> None:
        """Until the expression holds; Playwright's own waiting would need `unsafe-eval`, which the page forbids."""
        for _ in range(400):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"not within ten seconds: {expression}")


def shows(printed: str, probability: float) -> bool:
    """Whether a printed percentage is this probability, to its last digit."""
    text = printed.removesuffix("%").strip()
    percent = 100 * probability
    if text.startswith("<"):
        return 0 < percent < float(text[1:]) + 1e-3
    if text.startswith(">"):
        return float(text[1:]) < percent < 100
    if text in ("0", "100"):
        return percent == float(text)
    return abs(float(text) - percent) <= (0.05 if "." in text else 0.5) + 1e-3


def all_show(printed: Sequence[str], probabilities: Sequence[float]) -> bool:
    """Whether so many percentages stand there, each to its last digit."""
    return len(printed) == len(probabilities) and all(map(shows, printed, probabilities))
