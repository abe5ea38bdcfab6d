"""What happens to processes on real machines, at random moments, and what is left after each.

    python tests/support/hostile_trials.py sweep together --trials=20 --out=FILE.csv

Every command is a process of its own. However it ended, the same command is given again until it is
through; what it leaves is then compared with what an undisturbed one left.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from commands import MAX_SECONDS, ROOT, Process, commit, handles, prepare
from trials import Trials, damaged, has_state, newest_step, newest_steps, own_disk


def sweep(t: Trials) -> dict:
    """kill -9 of a sweep after its first checkpoint."""
    arguments = ["sweep", f"--config={t.folder / 'many.py'}"]
    return t.killed(arguments, lambda w: [*w.glob("populations/*/checkpoints/state/*/manifest*")])


def transfer(t: Trials) -> dict:
    """kill -9 of a transfer after its control's pretraining."""
    source = t.whole(["train", f"--config={ROOT}/experiments/pretrain.py:small", *SMALL])[2]
    arguments = ["transfer", f"--config={t.folder / 'finetuning.py'}", f"--from={source}"]

    def has_control(workdir: pathlib.Path) -> bool:
        runs = workdir / "control_atomic" / "runs.csv"
        return runs.exists() and ",done," in runs.read_text()

    return t.killed(arguments, has_control)


SMALL = [
    f"--config.{name}={value}"
    for name, value in {
        "data.num_entities": 24, "data.num_relations": 6, "data.out_degree": 4,
        "model.hidden_size": 16, "model.num_heads": 2, "model.mlp_multiple": 16,
        "optimizer.warmup_steps": 5, "train.batch_size": 16, "train.eval_every": 10,
        "train.chunk_steps": 5, "train.num_steps": 40, "checkpoint.every": 10,
        "checkpoint.analysis_steps_per_decade": 3,
    }.items()
]  # fmt: skip


def analyze(t: Trials) -> dict:
    """kill -9 of an analysis between its arrays and its last table: what it had is not redone."""
    source = t.whole(["train", f"--config={ROOT}/experiments/pretrain.py:small", *SMALL])[2]
    arguments = ["analyze", "--steps=20,40", "--pairs=4"]

    def made(out: pathlib.Path, pattern: str) -> dict[str, bytes]:
        return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob(pattern))}

    def run(out: pathlib.Path) -> Process:
        log = pathlib.Path(f"{out}.log")
        return Process([*arguments, f"--workdir={source}", f"--out={out}"], log)

    if not (whole := t.folder / "analysis").exists():
        for out in (t.new(), whole):
            process = run(out)
            process.wait_until(lambda o=out: _lines(o / "SHA256SUMS") >= 4)
            begin = time.monotonic()
            assert process.wait() == 0, process.said
            t.analysis_span = time.monotonic() - begin
    out = t.new()
    process = run(out)
    sums = out / "SHA256SUMS"
    process.wait_until(lambda: _lines(sums) >= 4)
    if t.rng.random() < 0.5:
        time.sleep(t.rng.uniform(0, t.analysis_span))
    else:  # tables take a tenth of that
        process.wait_until(lambda: any(out.glob("*.csv")))
        time.sleep(t.rng.uniform(0, t.analysis_span / 10))
    process.signal(signal.SIGKILL)
    killed, tables = process.wait() == -9, len([*out.glob("*.csv")])
    measured = {p: p.stat().st_mtime_ns for p in out.rglob("*.nc")} if _lines(sums) >= 4 else {}
    again = run(out)
    assert again.wait() == 0, again.said
    assert made(out, "*.csv") == made(whole, "*.csv")
    assert made(out, "*.nc").keys() == made(whole, "*.nc").keys()
    assert all(p.stat().st_mtime_ns == then for p, then in measured.items())
    return {"events": int(killed), "noted": f"{tables} of {len([*whole.glob('*.csv')])} tables"}


def _lines(path: pathlib.Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def orphans(t: Trials) -> dict:
    """kill -9 of a local launcher: its workers go on, and nobody trains their rows beside them."""
    config = f"--config={t.folder / 'many.py'}"
    changed = "--config.train.num_steps=1500"
    arguments = ["sweep", config, changed]
    t.whole(arguments)
    workdir = t.new()
    launch = [sys.executable, "-m", "launch", "local", config, changed, f"--workdir={workdir}"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    from grokjax.runtime.heartbeat import read_beat

    def beats() -> list:
        folders = sorted((workdir / "populations").glob("*"))
        return [b for b in map(read_beat, folders) if b is not None and b.is_alive]

    launcher = subprocess.Popen([*launch, "--workers=2"], **options)
    deadline = time.monotonic() + MAX_SECONDS
    while len(beats()) < 2 and launcher.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(t.rng.uniform(0, 0.5))
    launcher.kill()
    launcher.communicate()
    orphaned = beats()
    refused = subprocess.run([*launch, "--workers=2"], **options, timeout=MAX_SECONDS)
    row = orphaned and subprocess.run(
        [sys.executable, "-m", "grokjax", "sweep", f"--workdir={workdir}", "--population=000"],
        **options, timeout=MAX_SECONDS,
    )  # fmt: skip
    still = [b.pid for b in beats()]
    assert refused.returncode == 0, refused.stdout
    if {b.pid for b in orphaned} <= set(still):  # else one was through by then
        assert "0 rows to submit, 2 running or waiting" in refused.stdout, refused.stdout
        assert row.returncode == 2 and "being trained by process" in row.stdout, row.stdout
    while beats():
        time.sleep(0.1)
    t.finish(arguments, workdir)
    return {"events": len(orphaned), "noted": f"{len(still)} still at work when asked again"}


def together(t: Trials) -> dict:
    """Two processes that start at the same instant on one workdir: one trains, one is told."""
    arguments = t.train()
    t.whole(arguments, has_state)
    workdir = t.new()
    logs = [pathlib.Path(f"{workdir}.{i}.log") for i in range(2)]
    both = [Process([*arguments, f"--workdir={workdir}"], log) for log in logs]
    codes = [process.wait() for process in both]
    assert sorted(codes) in ([0, 2], [0, 0]), [p.said[-1000:] for p in both]
    for process, code in zip(both, codes, strict=True):
        said = [line for line in process.said.splitlines() if line.startswith("grokjax:")]
        assert len(said) == (code == 2), process.said
        if code == 2:
            other = next(p for p in both if p is not process)
            assert f"(host {socket.gethostname()}, process {other.pid})" in said[0], said
    t.compare(arguments, workdir)
    return {"events": 1, "noted": "refused" if 2 in codes else "one after the other"}


def hangup(t: Trials) -> dict:
    """SIGHUP at a random moment: of the start, or after the first checkpoint."""
    arguments = t.train()
    workdir, ends = t.new(), []
    for _ in range(2):
        process = t.start(arguments, workdir)
        before = len(process.said) if process.log.exists() else 0
        # The handlers are there some milliseconds after the fork, as after the first import.
        process.wait_until(lambda p=process: handles(p.pid, signal.SIGHUP))
        moment = t.after(arguments)
        if t.rng.random() < 0.7:
            process.wait_until(lambda: has_state(workdir))
        time.sleep(moment)
        process.signal(signal.SIGHUP)
        if (code := process.wait()) == 0:
            break
        said = [x for x in process.said[before:].splitlines() if x.startswith("grokjax:")]
        assert code == 75 and len(said) == 1 and "the same command goes on" in said[0], said
        ends.append("saved" if "saved at step" in said[0] else "nothing to save")
    t.finish(arguments, workdir)
    return {"events": len(ends), "noted": ", ".join(ends)}


@contextlib.contextmanager
def training_on_own_disk(
    t: Trials,
) -> Iterator[tuple[pathlib.Path, Process, Callable[[], Process]]]:
    """A disk, a training there that is at a random moment, and what starts it again.

    Whatever happens to them meanwhile, what is left in the end is the undisturbed end.
    """
    arguments = t.train()
    moment = t.after(arguments) / 2
    with own_disk(t) as disk:
        workdir = disk / t.new().name

        def start() -> Process:
            log = t.folder / f"{workdir.name}.log"
            return Process([*arguments, f"--workdir={workdir}"], log)

        process = start()
        process.wait_until((workdir / "curves.csv").exists)
        time.sleep(moment)
        yield disk, process, start
        t.compare(arguments, workdir)


def stall(t: Trials, seconds: float = 30.0) -> dict:
    """A file system that answers nobody for half a minute, from a random moment on."""
    with training_on_own_disk(t) as (disk, process, _):
        subprocess.run(["fsfreeze", "--freeze", str(disk)], check=True)
        begin = time.monotonic()
        try:
            waited = process.wait_until(lambda: time.monotonic() - begin > seconds)
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=True)
        assert process.wait() == 0, process.said[-2000:]
    return {"events": int(waited), "noted": "waited" if waited else "through before"}


def refuse(t: Trials) -> dict:
    """A file system that refuses every write for a while, from a random moment on."""
    with training_on_own_disk(t) as (disk, process, again):
        # As after an error of the disk: at once, whoever has files open.
        subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
        code = process.wait()
        said = [x for x in process.said.splitlines() if x.startswith("grokjax:")]
        assert code in (0, 2) and len(said) == (code == 2), process.said[-2000:]
        image = disk.with_suffix(".img")
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(["e2fsck", "-fy", str(image)], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
        process = again()
        assert process.wait() == 0, process.said[-2000:]
    return {"events": int(code == 2), "noted": said[0][-120:] if said else "through before"}


def one_of_two(t: Trials) -> dict:
    """kill -9 of one of two processes at a random moment; then on as one."""
    arguments = ["train", f"--config={t.folder / 'two.py'}"]
    _, span, _ = t.whole(arguments, has_state, devices=2)
    workdir = t.new()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [f"--coordinator=127.0.0.1:{port}", "--num-processes=2", f"--workdir={workdir}"]
    pair = [
        Process([*arguments, *both, f"--process-id={i}"], pathlib.Path(f"{workdir}.{i}.log"))
        for i in range(2)
    ]
    killed, step = t.rng.randrange(2), t.rng.randrange(-10, 60, 10)
    if step >= 0:  # else while they find each other
        pair[0].wait_until((workdir / "curves.csv").exists)
    pair[0].wait_until(lambda: newest_step(workdir) >= step)
    time.sleep(t.rng.uniform(0, span / 6))
    pair[killed].signal(signal.SIGKILL)
    begin = time.monotonic()
    codes = [process.wait() for process in pair]
    waited = time.monotonic() - begin
    assert codes[1 - killed] != 75, codes
    assert not damaged(workdir)
    noted = f"process {killed} at {newest_step(workdir)}; other left after {waited:.1f} s"
    t.finish(arguments, workdir, devices=2)
    return {"events": int(codes[killed] == -9), "noted": noted}


def clock(t: Trials) -> dict:
    """A kill, and on with a clock that is an hour behind; and again, with one that goes back."""
    arguments = t.train()
    workdir, kills, lead = t.new(), 0, 0.0
    for behind in (0.0, 3600.0):
        moment, begin = t.after(arguments) / 3, time.monotonic()
        process = t.start(arguments, workdir, behind=behind)
        process.wait_until(lambda: has_state(workdir))
        lead = lead or time.monotonic() - begin  # until there is something to train
        time.sleep(moment)
        process.signal(signal.SIGKILL)
        kills += process.wait() == -9
    after = lead + t.after(arguments) / 3
    process = t.start(arguments, workdir, behind=7200.0, after=after)
    noted = newest_steps(workdir)
    assert process.wait() == 0, process.said[-2000:]
    t.compare(arguments, workdir)
    return {"events": kills, "noted": f"on from {noted}, two hours back after {after:.1f} s"}


KINDS = {
    f.__name__: f
    for f in (sweep, transfer, analyze, orphans, together, hangup, stall, refuse, one_of_two, clock)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--trials", type=int, default=1, help="of each kind, in FILE")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 2**31))
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE")
    args = parser.parse_args()
    prepare()
    tried = commit()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="trials"))  # left as it is by one that fails
    print(f"{tried}, seed {args.seed}, in {folder}", flush=True)
    trials = Trials(folder, args.seed)
    for trial in range(args.trials):
        for kind in args.kinds:
            if trial < _tried(args.out, kind):
                continue
            begin = time.monotonic()
            row = KINDS[kind](trials)
            row |= {"seconds": f"{time.monotonic() - begin:.1f}", "commit": tried}
            _append(args.out, {"kind": kind, "trial": trial} | row)
            print(kind, trial, row, flush=True)
    shutil.rmtree(folder)


def _tried(path: pathlib.Path, kind: str) -> int:
    if not path.exists():
        return 0
    with open(path, newline="") as file:
        return sum(row["kind"] == kind for row in csv.DictReader(file))


def _append(path: pathlib.Path, row: dict) -> None:
    fresh = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
