"""What `grokjax checkpoints` prints: every stored step and its state."""

from __future__ import annotations

import os
import pathlib

from grokjax.base.errors import UserError
from grokjax.base.text import aligned
from grokjax.sweeps.plan import PLAN, population_folder, read_plan
from grokjax.workdir.checkpoints import KINDS, Checkpoints
from grokjax.workdir.manifest import DAMAGED, GOOD, PARTIAL


def list_checkpoints(workdir: str | os.PathLike, *, content: bool) -> tuple[list[str], int]:
    """Lines for a terminal, and how many steps are damaged.

    Args:
      workdir: of a population or a sweep.
      content: whether to read every byte; otherwise names and sizes alone.

    Raises:
      UserError: it has no checkpoints.
    """
    path = pathlib.Path(workdir)
    is_sweep = (path / PLAN).exists()
    names = [p.name for p in read_plan(path).populations] if is_sweep else [""]
    rows = []
    for name in names:
        folder = population_folder(path, name) if is_sweep else path
        stored = Checkpoints(folder / "checkpoints")
        for kind in KINDS:
            for step, (state, problem) in stored.examine(kind, content=content).items():
                rows.append((name, kind, f"{step:,}", state, problem))
    if not rows:
        raise UserError(f"{path}: has no checkpoints; is it a workdir that has been trained in?")
    lines = aligned([("", "kind", "step", "state", ""), *rows])
    states = [state for _, _, _, state, _ in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in (GOOD, DAMAGED, PARTIAL))
    how = "every byte compared" if content else "sizes compared; --verify reads every byte"
    return [*(line.strip() for line in lines), f"{counts} ({how})"], states.count(DAMAGED)
