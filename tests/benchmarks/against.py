"""This checkout's `grokjax bench` against another's, in turn: a row per line, with its ratios.

    python tests/benchmarks/against.py OTHER_CHECKOUT --rounds=3 --out=FILE.csv

Machines drift and cores are shared: each round runs both checkouts, the other order every time, and
a ratio is of one round. A ratio above 1 is faster here. Rates of a line are compared, or its
milliseconds turned over. Run it on quiet cores; some four minutes a round.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys

import pandas as pd

HERE = pathlib.Path(__file__).resolve().parents[2]
RATE = re.compile(r"([\d,.]+) (?:\S+ )?([\w-]+/s|ms\b|s a step)")
TIMES = ("ms", "s a step")


def lines(checkout: pathlib.Path, benchmarks: list[str]) -> dict[str, float]:
    """Speeds by line, `NAME: text up to its number`; a time counts as one over it."""
    found: dict[str, float] = {}
    for name in benchmarks:
        command = [sys.executable, "-m", "grokjax", "bench", "--quick", f"--only={name}"]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        done = subprocess.run(
            command, cwd=checkout, env=environment, text=True, capture_output=True, check=True
        )
        for line in done.stdout.splitlines():
            match = RATE.search(line)
            if match and line.startswith("  "):
                value = float(match[1].replace(",", ""))
                label = " ".join(line[: match.start()].split()).rstrip(":") or match[2]
                found[f"{name}: {label}"] = 1 / value if match[2] in TIMES else value
    return found


def commit(checkout: pathlib.Path) -> str:
    git = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, text=True, capture_output=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="quickstart,population,paper,lens,patching")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    other, benchmarks = args.other.resolve(), args.only.split(",")
    ratios: dict[str, list[float]] = {}
    for number in range(args.rounds):
        pair = [HERE, other] if number % 2 else [other, HERE]
        speeds = {checkout: lines(checkout, benchmarks) for checkout in pair}
        for name, value in speeds[HERE].items():
            if name in speeds[other]:
                ratios.setdefault(name, []).append(value / speeds[other][name])
        print(f"round {number + 1} of {args.rounds}", flush=True)
    rows = [
        {
            "line": name, "median": statistics.median(own), "lowest": min(own),
            "highest": max(own), "rounds": len(own), "commit": commit(HERE), "other": commit(other),
        }
        for name, own in ratios.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows).round(3)
    table.to_csv(args.out, index=False, lineterminator="\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
