"""What trials of commands share: experiments, undisturbed ends, random moments, disks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

from commands import Process

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
SEALED = "checkpoints/state/[0-9]*/manifest.json"  # what is being removed is called otherwise


def end_of(workdir: pathlib.Path) -> dict:
    """All that must not depend on what happened: of each population in a workdir.

    The workdir's own path, which a transfer's tables name as that of its control, is none of it.
    """
    from kill_trials import abstract_state, outcome

    path = os.fsencode(workdir)

    def end(folder: pathlib.Path) -> dict:
        found = outcome(folder, abstract_state(folder))
        slug = str(workdir).replace("/", "_")
        scalars = {(n.replace(slug, "."), tag): x for (n, tag), x in found["tensorboard"].items()}
        tables = {k: x.replace(path, b".") for k, x in found.items() if isinstance(x, bytes)}
        return found | tables | {"tensorboard": scalars}

    folders = [p.parent for p in sorted(workdir.rglob("config.json"))]
    ends = {str(f.relative_to(workdir)): end(f) for f in folders}
    tables = {}
    for table in sorted([*workdir.glob("*.csv"), *workdir.glob("*.parquet")]):
        tables[table.name] = table.read_bytes().replace(path, b".")
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
        # Checks start devices, which no process may that is to be forked.
        self._checker = concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("fork")
        )
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
            end = self._checker.submit(end_of, workdir).result()
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
        found = self._checker.submit(end_of, workdir).result()
        assert found.keys() == expected.keys(), (found.keys(), expected.keys())
        for name, end in expected.items():
            parts = [k for k in end if end[k] != found[name][k]] if isinstance(end, dict) else [""]
            assert found[name] == end, f"{workdir}: {name} differs in {parts}"
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
    for manifest in workdir.rglob(SEALED):
        name = str(manifest.parents[3].relative_to(workdir))
        newest[name] = max(newest.get(name, 0), int(manifest.parent.name))
    return " ".join(f"{name}:{step}" for name, step in sorted(newest.items()))


def newest_step(workdir: pathlib.Path) -> int:
    """The newest sealed one of a population; 0 if there is none."""
    sealed = workdir.glob(SEALED)
    return max((int(path.parent.name) for path in sealed), default=0)


def has_state(workdir: pathlib.Path) -> bool:
    return newest_step(workdir) > 0


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
