"""`grokjax bench --accelerator`: what an accelerator makes of the programs, most valuable first.

Every result is on disk as soon as it is there; what goes wrong is a result too; what no longer fits
the time is named. Each measured time stands beside the one that the counts predict.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from grokjax.base.files import write_atomically
from grokjax.instruments.bench import analysed, best, lens_reader, patched_passes, population_of
from grokjax.instruments.compile import versions
from grokjax.instruments.counts import Counts, Program
from grokjax.instruments.official_step import official_step
from grokjax.instruments.targets import LAUNCH
from grokjax.model import ModelConfig
from grokjax.model.cost import forward_flops, matmul_ceiling, train_flops
from grokjax.runtime.devices import setup_devices
from grokjax.settings import load_experiment
from grokjax.settings.declarations import SETTINGS
from grokjax.training.resolve import planned_model

TABLE = "measured.csv"
MACHINE = "machine.json"
_GOLDEN = pathlib.Path(__file__).parents[2] / "tests" / "data" / "golden"
_FIRST_GOLDEN = ("a_mlpt_forward", "b_attn_rope_train", "e_gpt2")
_EVERY = 0.05  # seconds between readings of the power
_COLUMNS = ("section", "case", "quantity", "value", "unit", "at_second")


def main(
    out: str | os.PathLike,
    compare: Callable[[pathlib.Path], Sequence[Difference]],
    minutes: float = 9.0,
    quick: bool = False,
) -> None:
    """Measures what fits the time.

    Args:
      out: a folder that gets `measured.csv` and `machine.json`; rows are added to what it has.
      compare: our numbers with a golden file's, as `interop/parity.py` does.
      minutes: after which nothing more is begun.
      quick: tiny sizes, to see on any machine that all of it runs.
    """
    setup_devices()
    device = jax.devices()[0]
    records = Records(pathlib.Path(out), minutes)
    records.describe(device)
    bench = _Bench(device, compare, quick)
    for section in (
        bench.parity,
        bench.ceilings,
        bench.population,
        bench.paper,
        bench.analysis,
        bench.official,
        bench.more_parity,
    ):
        for case in section():
            records.measure(section.__name__, case)
    print(f"{records.path}: {records.num_measured} measured, {records.num_skipped} skipped")


class Difference(Protocol):
    """Of one quantity, ours and the official code's."""

    @property
    def quantity(self) -> str: ...
    @property
    def relative(self) -> float: ...
    @property
    def ok(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure: about how long that takes, and {quantity: (value, unit)} from it."""

    name: str
    seconds: float
    measure: Callable[[], Mapping[str, tuple[Any, str]]]


class Records:
    """The table, written row by row, and the time that is left.

    Args:
      folder: that holds it.
      minutes: until nothing more is begun.
    """

    def __init__(self, folder: pathlib.Path, minutes: float):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / TABLE
        self.num_measured = self.num_skipped = 0
        self._start, self._seconds = time.monotonic(), 60 * minutes
        if not self.path.exists():
            self._append([_COLUMNS])

    @property
    def seconds_left(self) -> float:
        return self._seconds - (time.monotonic() - self._start)

    def describe(self, device: Any) -> None:
        """Which machine and which versions, beside the table."""
        about = {"device": device.device_kind, "platform": device.platform, "versions": versions()}
        about["num_devices"] = jax.device_count()
        about["driver"] = _asked("driver_version,name,power.limit,clocks.max.sm")
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            about["torch"] = importlib.metadata.version("torch")
        write_atomically(self.path.with_name(MACHINE), json.dumps(about, indent=1) + "\n")
        print(f"{device.device_kind}, jax {jax.__version__}: {self.path}", flush=True)

    def measure(self, section: str, case: Case) -> None:
        """Writes what a case gives; or why it gives nothing, which loses no other."""
        if self.seconds_left < case.seconds:
            self.num_skipped += 1
            told = f"takes about {case.seconds:.0f} s of {max(self.seconds_left, 0):.0f} s left"
            self._write(section, case.name, {"skipped": (told, "")})
            return
        try:
            found = dict(case.measure())
            self.num_measured += 1
        except Exception as error:  # whatever it is: a card is there for minutes
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            found = {"error": (said, "")}
        self._write(section, case.name, found)
        gc.collect()  # the next one wants the memory

    def _write(self, section: str, case: str, found: Mapping[str, tuple[Any, str]]) -> None:
        at = f"{time.monotonic() - self._start:.1f}"
        self._append([(section, case, name, v, unit, at) for name, (v, unit) in found.items()])
        shown = ", ".join(
            f"{name} {_short(v)} {unit}".rstrip() for name, (v, unit) in found.items()
        )
        print(f"{at:>6} s  {section}, {case}: {shown}", flush=True)

    def _append(self, rows: list[tuple[Any, ...]]) -> None:
        with open(self.path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
            file.flush()
            os.fsync(file.fileno())


class _Bench:
    """The cases, in sections; what one measures of the machine the next ones compare with."""

    def __init__(
        self, device: Any, compare: Callable[[pathlib.Path], Sequence[Difference]], quick: bool
    ):
        self._device, self._compare, self._quick = device, compare, quick
        self._flops: dict[str, float] = {}  # measured, by dtype and precision
        self._bandwidth = 0.0

    def parity(self) -> Iterator[Case]:
        """Golden numbers of the official code, on this device."""
        for name in _FIRST_GOLDEN[: 1 if self._quick else None]:
            yield Case(name, 20, functools.partial(self._parity, name))

    def more_parity(self) -> Iterator[Case]:
        """All other golden files."""
        for file in [] if self._quick else sorted(_GOLDEN.glob("*.npz")):
            if file.stem not in (*_FIRST_GOLDEN, "units"):
                yield Case(file.stem, 20, functools.partial(self._parity, file.stem))

    def _parity(self, name: str) -> dict[str, tuple[Any, str]]:
        differences = self._compare(_GOLDEN / f"{name}.npz")
        worst = max(differences, key=lambda d: d.relative)
        return {
            "within tolerance": (sum(d.ok for d in differences), f"of {len(differences)}"),
            "beyond": ("; ".join(d.quantity for d in differences if not d.ok) or "none", ""),
            "largest relative difference": (worst.relative, worst.quantity),
        }

    def ceilings(self) -> Iterator[Case]:
        """What large matrix products and large copies reach."""
        for dtype, precision in (("float32", "highest"), ("float32", "default"), ("bfloat16", "")):
            case = f"matrix products, {dtype} {precision}".strip()
            yield Case(case, 10, functools.partial(self._ceiling, dtype, precision))
        yield Case("copy", 5, self._copy)

    def _ceiling(self, dtype: str, precision: str) -> dict[str, tuple[Any, str]]:
        with jax.default_matmul_precision(precision or None):
            rate = matmul_ceiling(dtype, [self._device], size=256 if self._quick else None)
        self._flops[f"{dtype} {precision}".strip()] = rate
        return {"rate": (rate, "FLOP/s")}

    def _copy(self) -> dict[str, tuple[Any, str]]:
        x = jnp.ones(2**18 if self._quick else 2**28, jnp.float32)
        self._bandwidth = 2 * x.nbytes / best(lambda: _plus_one(x))
        return {"rate": (self._bandwidth, "B/s")}

    def population(self) -> Iterator[Case]:
        """The quickstart's training, more and more runs at once."""
        name = "experiments/quickstart.py" + ":smoke" * self._quick
        for num_runs in (2,) if self._quick else (1, 8, 64, 256, 1024):
            config = load_experiment(name)
            config.train.chunk_steps = 2 if self._quick else 100
            guess = 30 + num_runs / 16
            measure = functools.partial(self._training, config, num_runs)
            yield Case(f"{num_runs} runs", guess, measure)

    def paper(self) -> Iterator[Case]:
        """The paper's model, alone and five at once, as far as they fit."""
        remats = SETTINGS["model.remat"].allowed
        assert isinstance(remats, tuple)
        least, most = remats[0], remats[-1]
        cases = ((1, least), (5, most), (1, most), (5, least))
        for num_runs, remat in cases[: 1 if self._quick else None]:
            config = load_experiment("experiments/paper.py" + ":reduced" * self._quick)
            config.runs = ()
            config.data.phi = 1.0  # the step is the same, its data are made sooner
            config.model.remat = remat
            config.train.chunk_steps = 2 if self._quick else 4
            if self._quick:
                config.model.update({"H_cycles": 1, "L_cycles": 1})
                config.train.batch_size = 4
            measure = functools.partial(self._training, config, num_runs)
            yield Case(f"{num_runs} runs, remat {remat}", 60, measure)

    def _training(self, config: ConfigDict, num_runs: int) -> dict[str, tuple[Any, str]]:
        population = population_of(config, num_runs, [self._device])
        holder = [population.init()]
        length = config.train.chunk_steps
        program = population.train_program(holder[0], length)

        def call() -> Any:
            holder[0], metrics = program(holder[0], population.hyper, population.tables)
            return metrics

        with _Power() as power:
            seconds = best(call, 2 if self._quick else 5) / length
        model = population.train_config.model
        flops = train_flops(model) * config.train.batch_size * num_runs
        memory = program.memory_analysis()
        used = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        given = (self._device.memory_stats() or {}).get("bytes_limit", 0)
        found: dict[str, tuple[Any, str]] = {
            "step": (seconds, "s"),
            "member-steps": (num_runs / seconds, "1/s"),
            "model's FLOPs": (flops / seconds, "FLOP/s"),
            "compiled in": (population.compile_seconds, "s"),
            "memory": (used, "B"),
            "runs that would fit": (int(given / used * num_runs) if given else "unknown", ""),
        }
        if power.watts is not None:
            found["energy"] = (power.watts * seconds / num_runs, "J per member-step")
        return found | self._against_counts(program, model, seconds, length)

    def _against_counts(
        self, program: Any, model: ModelConfig, seconds: float, num_steps: int = 1
    ) -> dict[str, tuple[Any, str]]:
        """Shares of what the machine reaches, and the time that the counts predict of it."""
        is_gpu = self._is_gpu
        counts = Program(program.as_text(), loops_wait=is_gpu).counts().per(num_steps)
        found = {
            "FLOPs, counted": (counts.flops, "a step"),
            "bytes, counted": (counts.bytes_moved, "a step"),
            "kernels, counted": (counts.kernels, "a step"),
            "unknown loops, counted": (counts.unknown_loops, "a step"),
        }
        if not self._bandwidth or len(self._flops) < 3:  # that failed, or there was no time
            return found
        predicted, what = self._predicted(counts, model, is_gpu)
        return found | {
            "share of matrix ceiling": (counts.flops / seconds / self._ceiling_of(model), ""),
            "share of copy bandwidth": (counts.bytes_moved / seconds / self._bandwidth, ""),
            "predicted": (predicted, f"s, by {what}"),
            "measured / predicted": (seconds / predicted, ""),
        }

    @property
    def _is_gpu(self) -> bool:
        return self._device.platform in ("gpu", "cuda")

    def _predicted(self, counts: Counts, model: ModelConfig, is_gpu: bool) -> tuple[float, str]:
        bounds = {
            "FLOPs": counts.flops / self._ceiling_of(model),
            "bytes": counts.bytes_moved / self._bandwidth,
            "kernels": counts.kernels * LAUNCH if is_gpu else 0.0,
        }
        what = max(bounds, key=lambda name: bounds[name])
        return bounds[what], what

    def _ceiling_of(self, model: ModelConfig) -> float:
        if model.dtype == "bfloat16":
            return self._flops["bfloat16"]
        precision = getattr(model, "matmul_precision", "default")
        return self._flops.get(f"float32 {precision}", self._flops["float32 highest"])

    def analysis(self) -> Iterator[Case]:
        """The lens over many queries and one at a time; patched passes."""
        for name, hidden in (("quickstart", 0), ("paper", 256))[: 1 if self._quick else None]:
            yield Case(f"lens, {name}", 30, functools.partial(self._lens, name, hidden))
        yield Case("patching, quickstart", 60, self._patching)

    def _lens(self, name: str, hidden: int) -> dict[str, tuple[Any, str]]:
        model, weights = analysed(name, hidden)
        num_queries = 64 if self._quick else 16_384 if name == "quickstart" else 4_096
        queries = jnp.ones((num_queries, 4), jnp.int32)
        program = lens_reader(model).lower(*weights, queries).compile()
        one = lens_reader(model).lower(*weights, queries[:1]).compile()
        seconds = best(lambda: program(*weights, queries), 3)
        alone = best(lambda: one(*weights, queries[:1]), 3 if self._quick else 20)
        return {
            "queries": (num_queries / seconds, "1/s"),
            "queries, one at a time": (1 / alone, "1/s"),
            "times one at a time": (alone * num_queries / seconds, ""),
            "model's FLOPs": (forward_flops(model) * num_queries / seconds, "FLOP/s"),
        } | self._against_counts(program, model, seconds)

    def _patching(self) -> dict[str, tuple[Any, str]]:
        model, weights = analysed("quickstart", 0)
        num_pairs, stride = (4, 30) if self._quick else (64, 1)
        rate = patched_passes(model, weights, num_pairs, stride)
        return {"patched passes, all included": (rate, "1/s")}

    def official(self) -> Iterator[Case]:
        """The authors' step in PyTorch, of one run: what the numbers above stand beside."""
        for name in ("quickstart", "paper")[: 1 if self._quick else None]:
            yield Case(name, 60, functools.partial(self._official, name))

    def _official(self, name: str) -> dict[str, tuple[Any, str]]:
        config = load_experiment(f"experiments/{name}.py" + ":smoke" * self._quick)
        batch_size, loss = config.train.batch_size, config.train.loss
        device = "cuda" if self._is_gpu else "cpu"
        step = official_step(planned_model(config), batch_size, loss, device)
        seconds = best(step, 2 if self._quick else 10)
        return {"step": (seconds, "s"), "member-steps": (1 / seconds, "1/s")}


class _Power:
    """Mean power of the first card while within it, if its driver tells."""

    def __init__(self) -> None:
        self.watts: float | None = None
        self._readings: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> _Power:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        late = self._readings[len(self._readings) // 3 :]  # the first call compiles and warms up
        self.watts = sum(late) / len(late) if late else None

    def _read(self) -> None:
        while not self._done.is_set():
            try:
                self._readings.append(float(_asked("power.draw").split(",")[0]))
            except ValueError:
                return
            self._done.wait(_EVERY)


def _asked(fields: str) -> str:
    """What nvidia-smi says of the first card; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@jax.jit
def _plus_one(x: jax.Array) -> jax.Array:
    return x + 1


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
