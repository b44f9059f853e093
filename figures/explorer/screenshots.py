"""Pictures of the explorer, view by view, of two given models.

    python figures/explorer/screenshots.py --model demo/a --model demo/b

Needs an installed Chromium. Writes one PNG a view beside this file; README.md here shows them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from kc_interp.explorer.state import VIEWS, Cut, State

WIDTH, HEIGHT = 1280, 720
TALLEST = 1_500
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """One picture a view, the first at a laptop's height."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", required=True, help="give two")
    parser.add_argument("--question", default="[SUM 7 [SUM 8 7]]")
    parser.add_argument("--twin", default="[SUM 7 [SUM 8 9]]")
    parser.add_argument("--cut", default="a0.h1", help="the part that is cut in both models")
    chosen = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"no Chromium in PATH (looked for {', '.join(BROWSERS)})")
    command = [sys.executable, "-m", "kc_interp", "explore", "--no-open", "--json", "-q"]
    command += [word for model in chosen.model for word in ("--model", model)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        opened = json.loads(server.stdout.readline())
        root, names = opened["url"].split("?")[0], tuple(opened["models"])
        with sync_playwright() as playwright:
            running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = running.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            for view in VIEWS:
                cuts = tuple(Cut(side, "zero", chosen.cut) for side in range(len(names)))
                state = State(names, chosen.question, chosen.twin, cuts=cuts, view=view)
                page.set_viewport_size({"width": WIDTH, "height": TALLEST})
                page.goto(root + state.query())
                page.locator(f"#view-{view} .panel").first.wait_for()
                page.wait_for_timeout(2_500)
                tall = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
                clip = {"x": 0, "y": 0, "width": WIDTH, "height": tall}
                page.screenshot(path=Path(__file__).with_name(f"{view}.png"), clip=clip, full_page=True)
            running.close()
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
