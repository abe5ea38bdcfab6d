"""What happens to processes on real machines, at random moments, and what is left after each.

    python tests/support/hostile_trials.py sweep together --trials=20 --out=FILE.csv

Every command is a process of its own, forked from this one, which has the imports done and JAX's
devices not yet started. However it ended, the same command is given again until it is through; what
it leaves is then compared with what an undisturbed one left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parents[2]
MAX_SECONDS = 600  # of one process
# Before JAX is imported, here and in what `launch` starts.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "NPROC": "8",  # threads that XLA compiles for, however devices are divided
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
}
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
EXPERIMENT = """
from tiny import rows, tiny_config


def get_config():
    return tiny_config(train__num_steps=60, checkpoint__every=10)


def sweep(add):
    for row in rows(2, (16, 32)):
        add(row)
"""
TWO = """
from grokjax.settings import seeds
from tiny import tiny_config


def get_config():
    return tiny_config(train__num_steps=60, checkpoint__every=10)


def sweep(add):
    for row in seeds(2):
        add(row)
"""
FINETUNING = """
import copy


def get_config(source):
    config = copy.deepcopy(source)
    config.train.update({"num_steps": 40, "eval_every": 10})
    config.checkpoint.every = 10
    config.transfer.update({"num_new_facts": 8, "num_kept": 20, "control_steps": 20})
    config.transfer.checkpoints = "end"
    return config
"""


class Process:
    """A command, as a process that has its imports done.

    Args:
      arguments: of `grokjax`.
      log: gets what it prints.
      behind: seconds that its clock is behind.
      devices: that it trains on.
    """

    def __init__(
        self, arguments: list[str], log: pathlib.Path, *, behind: float = 0.0, devices: int = 1
    ):
        self.log, self._code = log, None
        self.pid = _forked(lambda: _command(arguments, behind, devices), log)

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self) -> int:
        deadline = time.monotonic() + MAX_SECONDS
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.005)
        return code

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait_until(self, condition: Callable[[], object]) -> bool:
        """Whether the condition came before the end of the process."""
        while not condition():
            if self.poll() is not None:
                return False
            time.sleep(0.002)
        return True

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def _command(arguments: list[str], behind: float, devices: int) -> int:
    import jax

    from grokjax.cli import main

    jax.config.update("jax_num_cpu_devices", devices)
    if behind:
        now = time.time
        time.time = lambda: now() - behind
    sys.argv = ["grokjax", *arguments]
    return main()


def _forked(function: Callable[[], int], log: pathlib.Path) -> int:
    """The id of a process that calls `function` and leaves with what it gives."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        code = function()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def elsewhere(function: Callable[[], object], folder: pathlib.Path) -> object:
    """What a function gives that starts devices, which no process may that is to be forked."""
    answer = folder / "answer.pickle"

    def work() -> int:
        answer.write_bytes(pickle.dumps(function()))
        return 0

    pid = _forked(work, folder / "checks.log")
    _, status = os.waitpid(pid, 0)
    assert not status, (folder / "checks.log").read_text()[-3000:]
    return pickle.loads(answer.read_bytes())


def end_of(workdir: pathlib.Path) -> dict:
    """All that must not depend on what happened: of each population in a workdir."""
    from kill_trials import abstract_state, outcome

    folders = [p.parent for p in sorted(workdir.rglob("config.json"))]
    ends = {str(f.relative_to(workdir)): outcome(f, abstract_state(f)) for f in folders}
    tables = {}
    for path in sorted([*workdir.glob("*.csv"), *workdir.glob("*.parquet")]):
        tables[path.name] = path.read_bytes()
    return ends | tables


def damaged(workdir: pathlib.Path) -> list[str]:
    """Sealed steps that are not whole, of all populations of a workdir; every byte is compared."""
    from grokjax.workdir.checkpoints import Checkpoints

    return [
        f"{folder} {step}: {problem}"
        for folder in workdir.rglob("checkpoints")
        for kind in ("state", "analysis")
        for step, (state, problem) in Checkpoints(folder).examine(kind, content=True).items()
        if state == "damaged"
    ]


class Trials:
    """Everything that trials share: a folder, a source, random moments, what undisturbed ends are.

    Args:
      folder: of its own.
      seed: of the moments.
    """

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder, self.rng, self._count = folder, random.Random(seed), 0
        self._whole: dict[str, tuple[dict, float, pathlib.Path]] = {}
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        (folder / "many.py").write_text(EXPERIMENT)
        (folder / "finetuning.py").write_text(FINETUNING)
        (folder / "two.py").write_text(TWO)

    def new(self) -> pathlib.Path:
        self._count += 1
        return self.folder / f"w{self._count:04d}"

    def start(self, arguments: list[str], workdir: pathlib.Path, **options: float) -> Process:
        log = pathlib.Path(f"{workdir}.log")
        return Process([*arguments, f"--workdir={workdir}"], log, **options)

    def whole(
        self,
        arguments: list[str],
        condition: Callable[[pathlib.Path], object] = lambda _: True,
        **options: int,
    ) -> tuple[dict, float, pathlib.Path]:
        """What an undisturbed command leaves, its seconds after a condition, and where."""
        key = " ".join(arguments)
        if key not in self._whole:
            for _ in range(2):  # programs are compiled, and found
                workdir = self.new()
                process = self.start(arguments, workdir, **options)
                process.wait_until(lambda w=workdir: condition(w))
                begin = time.monotonic()
                assert process.wait() == 0, process.said
                span = time.monotonic() - begin
            end = elsewhere(lambda: end_of(workdir), self.folder)
            self._whole[key] = end, span, workdir
        return self._whole[key]

    def after(self, arguments: list[str], **options: int) -> float:
        """Seconds of a command after its first checkpoint, at random."""
        _, span, _ = self.whole(arguments, has_state, **options)
        return self.rng.uniform(0, span)

    def finish(self, arguments: list[str], workdir: pathlib.Path, **options: int) -> None:
        """The same command, to the end, which is the undisturbed one's."""
        process = self.start(arguments, workdir, **options)
        assert process.wait() == 0, process.said[-2000:]
        self.compare(arguments, workdir)

    def compare(self, arguments: list[str], workdir: pathlib.Path) -> None:
        expected, _, _ = self.whole(arguments)
        found = elsewhere(lambda: end_of(workdir), self.folder)
        assert found.keys() == expected.keys(), (found.keys(), expected.keys())
        for name in expected:
            assert found[name] == expected[name], f"{workdir}: {name} differs"
        assert not damaged(workdir)
        shutil.rmtree(workdir)

    def train(self) -> list[str]:
        from kill_trials import command

        return command(self.folder / "w", train__num_steps=60)[3:-1]

    def killed(
        self, arguments: list[str], condition: Callable[[pathlib.Path], object], chain: int = 2
    ) -> dict:
        """Kills a command at random after a condition, several times; then lets it come to its end.

        `condition` is of a workdir.
        """
        _, span, _ = self.whole(arguments, condition)
        workdir, kills, steps = self.new(), 0, []
        for _ in range(chain):
            process = self.start(arguments, workdir)
            if process.wait_until(lambda: condition(workdir)):
                time.sleep(self.rng.uniform(0, span))
            process.signal(signal.SIGKILL)
            if process.wait() == 0:
                break
            assert process.wait() == -9, process.said[-2000:]
            kills += 1
            assert not damaged(workdir)
            steps.append(newest_steps(workdir))
        self.finish(arguments, workdir)
        return {"events": kills, "noted": "; newest steps ".join(["", *steps])[2:]}


def newest_steps(workdir: pathlib.Path) -> str:
    """By population, the newest sealed step."""
    newest = {}
    for manifest in workdir.rglob("checkpoints/state/*/manifest.json"):
        name = str(manifest.parents[3].relative_to(workdir))
        newest[name] = max(newest.get(name, 0), int(manifest.parent.name))
    return " ".join(f"{name}:{step}" for name, step in sorted(newest.items()))


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
    """kill -9 of an analysis between its arrays and its last table."""
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
    process.wait_until(lambda: _lines(out / "SHA256SUMS") >= 4)
    time.sleep(t.rng.uniform(0, t.analysis_span))
    process.signal(signal.SIGKILL)
    killed, tables = process.wait() == -9, len([*out.glob("*.csv")])
    again = run(out)
    assert again.wait() == 0, again.said
    assert made(out, "*.csv") == made(whole, "*.csv")
    assert made(out, "*.nc").keys() == made(whole, "*.nc").keys()
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
        process.wait_until(lambda p=process: _handles(p.pid, signal.SIGHUP))
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


def has_state(workdir: pathlib.Path) -> bool:
    return any(workdir.glob("checkpoints/state/*/manifest.json"))


def _handles(pid: int, number: int) -> int:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    caught = next(x for x in status.splitlines() if x.startswith("SigCgt:")).split()[1]
    return int(caught, 16) >> (number - 1) & 1


@contextlib.contextmanager
def own_disk(t: Trials) -> Iterator[pathlib.Path]:
    """An ext4 of its own, which can be frozen: whoever writes to it waits, as for a lost server."""
    image, folder = t.folder / f"disk{t._count}.img", t.folder / f"disk{t._count}"
    folder.mkdir()
    subprocess.run(["truncate", "-s", "64M", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        image.unlink()


def stall(t: Trials, seconds: float = 30.0) -> dict:
    """A file system that answers nobody for half a minute, from a random moment on."""
    arguments = t.train()
    moment = t.after(arguments) / 2
    with own_disk(t) as disk:
        workdir = disk / t.new().name
        log = t.folder / f"{workdir.name}.log"
        process = Process([*arguments, f"--workdir={workdir}"], log)
        process.wait_until((workdir / "curves.csv").exists)
        time.sleep(moment)
        subprocess.run(["fsfreeze", "--freeze", str(disk)], check=True)
        begin = time.monotonic()
        try:
            waited = process.wait_until(lambda: time.monotonic() - begin > seconds)
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=True)
        assert process.wait() == 0, process.said[-2000:]
        t.compare(arguments, workdir)
    return {"events": int(waited), "noted": "waited" if waited else "through before"}


def refuse(t: Trials) -> dict:
    """A file system that refuses every write for a while, from a random moment on."""
    arguments = t.train()
    moment = t.after(arguments) / 2
    with own_disk(t) as disk:
        workdir = disk / t.new().name
        log = t.folder / f"{workdir.name}.log"
        process = Process([*arguments, f"--workdir={workdir}"], log)
        process.wait_until((workdir / "curves.csv").exists)
        time.sleep(moment)
        # As after an error of the disk: at once, whoever has files open.
        done = subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=False)
        assert done.returncode == 0
        code = process.wait()
        said = [x for x in process.said.splitlines() if x.startswith("grokjax:")]
        assert code in (0, 2) and len(said) == (code == 2), process.said[-2000:]
        image = disk.with_suffix(".img")
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(["e2fsck", "-fy", str(image)], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
        again = Process([*arguments, f"--workdir={workdir}"], log)
        assert again.wait() == 0, again.said[-2000:]
        t.compare(arguments, workdir)
    return {"events": int(code == 2), "noted": said[0][-120:] if said else "through before"}


def one_of_two(t: Trials) -> dict:
    """kill -9 of one of two processes at a random moment; then on as one."""
    arguments = ["train", f"--config={t.folder / 'two.py'}"]
    moment = t.after(arguments, devices=2)
    workdir = t.new()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [f"--coordinator=127.0.0.1:{port}", "--num-processes=2", f"--workdir={workdir}"]
    pair = [
        Process([*arguments, *both, f"--process-id={i}"], pathlib.Path(f"{workdir}.{i}.log"))
        for i in range(2)
    ]
    killed = t.rng.randrange(2)
    if t.rng.random() < 0.9:  # else while they find each other
        pair[0].wait_until((workdir / "curves.csv").exists)
    time.sleep(moment)
    pair[killed].signal(signal.SIGKILL)
    begin = time.monotonic()
    codes = [process.wait() for process in pair]
    waited = time.monotonic() - begin
    assert codes[1 - killed] != 75, codes
    assert not damaged(workdir)
    noted = f"process {killed} at {newest_steps(workdir) or 0}; other left after {waited:.1f} s"
    t.finish(arguments, workdir, devices=2)
    return {"events": int(codes[killed] == -9), "noted": noted}


def clock(t: Trials) -> dict:
    """A kill, and on with a clock that is an hour behind; and again."""
    arguments = t.train()
    workdir, kills = t.new(), 0
    for behind in (0.0, 3600.0):
        moment = t.after(arguments) / 3
        process = t.start(arguments, workdir, behind=behind)
        process.wait_until(lambda: has_state(workdir))
        time.sleep(moment)
        process.signal(signal.SIGKILL)
        kills += process.wait() == -9
    process = t.start(arguments, workdir, behind=7200.0)
    noted = newest_steps(workdir)
    assert process.wait() == 0, process.said[-2000:]
    t.compare(arguments, workdir)
    return {"events": kills, "noted": f"on from {noted}, two hours behind"}


KINDS = {
    f.__name__: f
    for f in (sweep, transfer, analyze, orphans, together, hangup, stall, refuse, one_of_two, clock)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 2**31))
    parser.add_argument("--out", type=pathlib.Path, required=True, help="rows are appended")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="os.fork")
    import kill_trials  # noqa: F401

    import grokjax.cli
    import grokjax.report
    import grokjax.sweeps.runner
    import grokjax.training.loop
    import grokjax.transfer.run  # noqa: F401

    commit = _commit()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(pathlib.Path(folder), args.seed)
        for trial in range(args.trials):
            for kind in args.kinds:
                begin = time.monotonic()
                row = KINDS[kind](trials)
                row |= {"seconds": f"{time.monotonic() - begin:.1f}", "commit": commit}
                _append(args.out, {"kind": kind, "trial": trial} | row)
                print(kind, trial, row, flush=True)


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _append(path: pathlib.Path, row: dict) -> None:
    import csv

    fresh = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
