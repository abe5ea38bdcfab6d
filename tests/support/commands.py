"""Commands as processes of their own that have their imports done, forked from this one.

Whoever forks them must not have started JAX's devices.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
MAX_SECONDS = 600  # of one process


def prepare() -> None:
    """Before JAX is imported, here and in what `launch` starts; then what commands import."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "NPROC": "8",  # threads that XLA compiles for, however devices are divided
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
    }
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    warnings.filterwarnings("ignore", message="os.fork")
    import kill_trials  # noqa: F401

    import grokjax.analysis
    import grokjax.report.analysis_page
    import grokjax.report.curves_figure
    import grokjax.report.summary
    import grokjax.sweeps.runner
    import grokjax.training.loop
    import grokjax.transfer.run  # noqa: F401


def commit() -> str:
    """What is tried, for a table of what was counted; with a + if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "grokjax", "launch"])
    return found.stdout.strip() + "+" * (changed.returncode == 1)


class Process:
    """A command, as a process that has its imports done.

    Args:
      arguments: of `grokjax`.
      log: gets what it prints.
      behind: seconds that its clock is set back.
      after: seconds from its start on at which that happens; 0: it starts so.
      devices: that it trains on.
    """

    def __init__(
        self,
        arguments: list[str],
        log: pathlib.Path,
        *,
        behind: float = 0.0,
        after: float = 0.0,
        devices: int = 1,
    ):
        self.log, self._code = log, None
        self.pid = forked(lambda: _command(arguments, behind, after, devices), log)

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


def _command(arguments: list[str], behind: float, after: float, devices: int) -> int:
    import jax

    from grokjax.cli import main

    jax.config.update("jax_num_cpu_devices", devices)
    if behind:
        now, passed, start = time.time, time.monotonic, time.monotonic()
        time.time = lambda: now() - (behind if passed() - start >= after else 0.0)
    sys.argv = ["grokjax", *arguments]
    return main()


def forked(function: Callable[[], int], log: pathlib.Path) -> int:
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


def handles(pid: int, number: int) -> int:
    """Whether a process has a handler for a signal."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    caught = next(x for x in status.splitlines() if x.startswith("SigCgt:")).split()[1]
    return int(caught, 16) >> (number - 1) & 1
