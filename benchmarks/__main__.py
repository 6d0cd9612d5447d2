"""Run every benchmark, or those that `--only` names: `python -m benchmarks --out FOLDER [--only serving] [--json]`.

What else one of them takes, it takes alone: `python -m benchmarks.train_speed --help`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = ("train_speed", "strategy_speed", "inference_speed", "serving")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/bench")
    parser.add_argument("--only", default=",".join(NAMES), help=f"separated by commas, of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print each one's JSON twin, a line each")
    given = parser.parse_args()
    names = given.only.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}. Allowed: {', '.join(NAMES)}")
    more = ["--json"] if given.json else []
    failed = [
        name
        for name in names  # each in its own process: what one leaves in memory slows no other
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--out", given.out, *more]).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
