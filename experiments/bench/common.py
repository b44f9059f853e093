"""What every benchmark does with its result: write and print its JSON where asked; else it says it in words itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_output(parser: argparse.ArgumentParser) -> None:
    """`--out FOLDER` and `--json`."""
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")


def delivered(name: str, document: Mapping[str, Any], chosen: argparse.Namespace) -> bool:
    """Write `name`.json into --out if given, print the document under --json; whether it was printed."""
    text = json.dumps(document, indent=1)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / f"{name}.json").write_text(text)
    if chosen.json:
        print(text)
    return bool(chosen.json)
