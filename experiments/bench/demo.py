"""How long the main job takes: `kc-interp demo` as a whole process, from nothing to the report.

    python experiments/bench/demo.py [--threads 2] [--out FOLDER] [--json]

Exit status 1 when it takes longer than its target. Installation is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from common import add_output, delivered

TARGET_SECONDS = 360


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    add_output(parser)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "kc_interp",
            "demo",
            "--out",
            folder,
            "--threads",
            str(chosen.threads),
            "--json",
        ]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    said = json.loads(done.stdout)
    learned = {model["name"]: model["learned"] for model in said["roster"]["models"]}
    document = {
        "protocol": f"one process, {chosen.threads} threads of {os.cpu_count()} cores, eight models in one ensemble",
        "target_seconds": TARGET_SECONDS,
        "seconds": seconds,
        "stages": said["provenance"]["seconds"],
        "learned": learned,
    }
    if not delivered("demo", document, chosen):
        stages = ", ".join(f"{name} {value:.0f} s" for name, value in document["stages"].items())
        print(document["protocol"])
        print(
            f"{seconds:.0f} s (target {TARGET_SECONDS} s): {stages}; learned: {sum(map(bool, learned.values()))} of 8"
        )
    return int(seconds > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
