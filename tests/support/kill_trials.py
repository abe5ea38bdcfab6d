"""kill -9 at random moments of a training, and what is left after each.

    python tests/support/kill_trials.py --trials=50 --out=FILE.csv

A trial starts `grokjax train`, kills it at a random moment (while it starts, trains, saves, removes
an old step or ends) and restores every step that is listed then. Kills are chained, several to a
training, until the training is through; then its final state, tables and TensorBoard steps are
compared with those of a training that nobody disturbed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from commands import commit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = pathlib.Path(__file__).parents[2]
STEPS, SAVE_EVERY = 400, 10
MAX_SECONDS = 240  # of one process
SETTINGS = {
    "data.num_entities": 12, "data.num_relations": 6, "data.out_degree": 4,
    "data.iid_test_fraction": 0.1, "data.ood_fraction": 0.2, "model.hidden_size": 16,
    "model.num_heads": 2, "model.mlp_multiple": 16, "optimizer.warmup_steps": 5,
    "train.batch_size": 16, "train.eval_every": SAVE_EVERY, "train.chunk_steps": 5,
    "train.num_steps": STEPS, "checkpoint.every": SAVE_EVERY,
    "checkpoint.analysis_steps_per_decade": 20,
}  # fmt: skip


def command(workdir: pathlib.Path, **settings: object) -> list[str]:
    """Trains a tiny run; `settings` as `train__num_steps=20`."""
    changed = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    options = [f"--config.{name}={value}" for name, value in changed.items()]
    experiment = f"--config={ROOT}/experiments/pretrain.py:small"
    return [*GROKJAX, "train", experiment, *options, f"--workdir={workdir}"]


GROKJAX = [sys.executable, "-m", "grokjax"]


def environment(workdir: pathlib.Path) -> dict[str, str]:
    """One device, and every program compiled but once, in a cache beside the workdirs."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def train(workdir: pathlib.Path, num_steps: int = STEPS) -> None:
    """To the end, in a process of its own."""
    subprocess.run(
        command(workdir, train__num_steps=num_steps), env=environment(workdir), check=True,
        stdout=subprocess.DEVNULL, timeout=MAX_SECONDS,
    )  # fmt: skip


def kill_at_random(
    workdir: pathlib.Path, rng: random.Random, num_steps: int, window: float
) -> dict | None:
    """Starts the training and kills it; what was going on, or None if it was through before.

    One kill in ten comes within `window` seconds of the start, two as soon as an old step is being
    removed after the first evaluation, the others within `window` seconds of that.
    """
    process = subprocess.Popen(
        command(workdir, train__num_steps=num_steps),
        env=environment(workdir),
        stdout=subprocess.DEVNULL,
    )
    start = time.monotonic()
    aim = rng.random()
    if started := aim >= 0.1:
        curves = workdir / "curves.csv"
        for _ in range(2):  # rows beyond the checkpoint are dropped, then new ones written
            before = _changed(curves)
            while _changed(curves) == before and process.poll() is None:
                time.sleep(0.002)
                assert time.monotonic() - start < MAX_SECONDS
    if 0.1 <= aim < 0.3:
        while not _names(workdir, "state", "trash") and process.poll() is None:
            pass
    else:
        time.sleep(rng.uniform(0, window))
    process.kill()
    if process.wait() != -9:
        assert process.returncode == 0, process.returncode
        return None
    during = _activity(workdir) or ("training" if started else "starting")
    return {"seconds": round(time.monotonic() - start, 2), "during": during}


def _changed(path: pathlib.Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _reached(workdir: pathlib.Path) -> int:
    """The step of the last whole row of the curves."""
    path = workdir / "curves.csv"
    lines = path.read_text().splitlines(keepends=True)[1:] if path.exists() else []
    return max((int(line.split(",")[1]) for line in lines if line.endswith("\n")), default=0)


def _names(workdir: pathlib.Path, kind: str, part: str) -> list[str]:
    """Entries beside the steps of a kind that have `part` in their names."""
    folder = workdir / "checkpoints" / kind
    return [name for name in os.listdir(folder) if part in name] if folder.exists() else []


def _activity(workdir: pathlib.Path) -> str:
    """What the kill cut off, as the folder shows."""
    from grokjax.workdir.checkpoints import Checkpoints

    found = []
    for kind in ("state", "analysis"):
        if _names(workdir, kind, "orbax-checkpoint-tmp"):
            found.append(f"saving {kind}")
        states = Checkpoints(workdir / "checkpoints").examine(kind, content=False)
        if any(state == "partial" for state, _ in states.values()):
            found.append(f"sealing {kind}")
        if _names(workdir, kind, "trash"):
            found.append(f"removing {kind}")
    return ", ".join(found)


def restore_listed(workdir: pathlib.Path, like: object) -> tuple[list[int], list[int]]:
    """Full states and weights that are listed; each is verified and restored.

    Raises:
      UserError: one of them is not whole.
    """
    from grokjax.workdir.checkpoints import Checkpoints

    stored = Checkpoints(workdir / "checkpoints")
    for step in stored.steps():
        state = stored.restore(step, like)
        assert np.all(np.asarray(state.step) == step), step
    weights = {name: getattr(like, name) for name in ("params", "ema_params", "buffers")}
    for step in stored.steps("analysis"):
        stored.restore_analysis(step, weights)
    return stored.steps(), stored.steps("analysis")


def abstract_state(workdir: pathlib.Path) -> object:
    """Shapes and dtypes of the state that a trained workdir holds."""
    import grokjax
    from grokjax.data.loading import load_datasets
    from grokjax.settings.rows import expand
    from grokjax.training.population import Population

    config = grokjax.load(workdir).config
    runs = expand(config)
    return Population(config, runs, load_datasets(runs)).abstract_state()


def outcome(workdir: pathlib.Path, like: object) -> dict[str, object]:
    """All that must not depend on interruptions: hashes, and the scalars of every event folder."""
    import jax

    from grokjax.workdir.checkpoints import Checkpoints

    step, state = Checkpoints(workdir / "checkpoints").restore_latest(like)
    leaves = [x if x.dtype != state.key.dtype else jax.random.key_data(x)
              for x in jax.tree.leaves(state)]  # fmt: skip
    digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()
    scalars = {}
    for folder in sorted((workdir / "tensorboard").glob("*")):
        reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            scalars[folder.name, tag] = [(e.step, e.value) for e in reader.Scalars(tag)]
    tables = {name: (workdir / name).read_bytes() for name in ("curves.csv", "runs.csv")}
    steps = Checkpoints(workdir / "checkpoints").steps("analysis")
    return {"step": step, "state": digest, "tensorboard": scalars, "analysis": steps} | tables


def run_trials(
    num: int,
    chain: int,
    folder: pathlib.Path,
    seed: int,
    *,
    num_steps: int = STEPS,
    window: float = 4.0,
    train: Callable[[pathlib.Path, int], None] = train,
) -> pd.DataFrame:
    """A row per kill, `chain` of them to a training; see the module's text.

    Args:
      num: kills in all.
      chain: kills of one training.
      folder: gets the workdirs.
      seed: of the moments.
      num_steps: of a training.
      window: seconds after a process's first evaluation, in which it is killed.
      train: trains a workdir to its end.
    """
    from grokjax.workdir.tables import read_runs

    rng = random.Random(seed)
    train(folder / "whole", num_steps)
    like = abstract_state(folder / "whole")
    expected = outcome(folder / "whole", like)
    rows: list[dict] = []
    while len(rows) < num:
        workdir = folder / f"killed{len(rows):03d}"
        chained: list[dict] = []
        newest = 0
        while len(chained) < min(chain, num - len(rows)):
            if (killed := kill_at_random(workdir, rng, num_steps, window)) is None:
                break  # it was through before
            states, weights = restore_listed(workdir, like)
            assert not states or states[-1] >= newest, "a step that was listed is gone"
            if (workdir / "runs.csv").exists():
                assert "running" not in set(read_runs(workdir).status), "nobody trains here"
            newest = states[-1] if states else 0
            reached = max(_reached(workdir), newest)
            killed |= {
                "training": workdir.name, "reached": reached, "newest": newest,
                "lost": reached - newest, "states": " ".join(map(str, states)),
                "weights": len(weights), "restored": len(states) + len(weights),
            }  # fmt: skip
            chained.append(killed)
            print(killed, flush=True)
        train(workdir, num_steps)
        found = outcome(workdir, like)
        for name in expected:
            assert found[name] == expected[name], f"{workdir}: {name} differs"
        rows += [row | {"equal_at_the_end": True} for row in chained]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--chain", type=int, default=10, help="kills of one training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = run_trials(args.trials, args.chain, pathlib.Path(folder), args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table = table.assign(commit=commit())
    table.to_csv(args.out, index_label="trial")


if __name__ == "__main__":
    main()
