"""How soon the command line answers: `kc-interp --help` as a whole process, beside an empty Python.

    python experiments/bench/startup.py [--rounds 15] [--out FOLDER] [--json]

The two are interleaved; medians. Exit status 1 when it takes longer than its target.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from common import add_output, delivered

TARGET_SECONDS = 0.3
COMMANDS = {"kc-interp --help": ["-m", "kc_interp", "--help"], "python -c pass": ["-c", "pass"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    add_output(parser)
    chosen = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(chosen.rounds + 1):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    helped, empty = (median[name] for name in COMMANDS)
    document = {
        "protocol": f"whole processes, {chosen.rounds} rounds interleaved after one warm-up, medians",
        "python": sys.version.split()[0],
        "target_seconds": TARGET_SECONDS,
        "seconds": median,
        "ratio": helped / empty,
    }
    if not delivered("startup", document, chosen):
        print(document["protocol"])
        print(
            f"--help {helped:.3f} s (target {TARGET_SECONDS} s), {helped / empty:.1f} times empty Python {empty:.3f} s"
        )
    return int(helped > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
