"""`lens.grokjax.plot()`, `effects.grokjax.plot()`: what an analysis returns plots itself."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokjax.analysis import tables
from grokjax.analysis.logit_lens import tokens_of
from grokjax.base.errors import UserError
from grokjax.data.task import GENERALISATION, TRAINED, Hidden, ProbeType, Task
from grokjax.data.tasks import DECLARED
from grokjax.model import BLOCK_COMPONENTS
from grokjax.report import analysis_figures
from grokjax.report.style import Picture


class Plotting:
    """Pictures of what `logit_lens`, `patch_effects` or `load_analysis` gave."""

    def __init__(self, data: xr.Dataset):
        self._data = data

    def plot(
        self,
        *,
        type: str | None = None,
        group: str | None = None,
        direction: str | None = None,
        blocks: bool = False,
    ) -> Picture:
        """A heat map of the last step: of a lens by probe type, of effects by group and direction.

        Args:
          type: probe type of a lens; what grokking is told by, or the first there is, by default.
          group: of the pairs, the first by default.
          direction: of the patches, the first by default.
          blocks: what blocks compute, instead of the streams.

        Raises:
          UserError: these data are neither.
        """
        data = self._data
        if "run" not in data.dims:
            data = data.expand_dims("run")
        if "step" not in data.dims:  # a scalar one is kept; without any, captions name none
            data = data.expand_dims("step" if "step" in data.coords else {"step": [-1]})
        data = data.isel(step=[-1])
        for name, default in (("regime", "one run"), ("seeds", "")):
            values = np.atleast_1d(data[name].to_numpy() if name in data.coords else default)
            data = data.assign_coords({name: ("run", values)})
        labels = data.regime.to_numpy().tolist()
        if "top1" in data:
            task = _task_of(data)
            table = tables.lens_by_group(data, labels, task)
            kinds = list(dict.fromkeys(table.type[table.num_seeds > 0]))
            preferred = [k for k in kinds if k == task.generalisation] or kinds
            return analysis_figures.lens_figure(table, _one_of("type", type, preferred[0], kinds))
        if "effect" in data:
            table = tables.patching_by_group(data, labels)
            if blocks and not table.component.isin(BLOCK_COMPONENTS).any():
                raise UserError("plot: blocks: no state inside of a block was patched")
            task = _task_asking(list(dict.fromkeys(data.slot.to_numpy().tolist())))
            groups, directions = (list(dict.fromkeys(table[c])) for c in ("group", "direction"))
            return analysis_figures.patching_figure(
                table,
                _one_of("group", group, groups[0], groups),
                _one_of("direction", direction, directions[0], directions),
                blocks=blocks,
                task=task,
            )
        raise UserError("plot: this is neither a lens nor effects of patches")


def _task_of(lens: xr.Dataset) -> Task:
    """The task that a lens is of; one of ours, or the least that its names say."""
    tokens, types = (lens[name].to_numpy().tolist() for name in ("token", "type"))
    for task in DECLARED.values():
        if tokens == list(tokens_of(task)):
            return task
    hidden, question = tokens[: tokens.index("target")], tokens[tokens.index("target") + 1 :]
    kinds = (ProbeType(name, GENERALISATION if name == types[-1] else TRAINED) for name in types)
    given = tuple(Hidden(name, ()) for name in hidden)
    return Task("own", tuple(question), tuple(kinds), given)


def _task_asking(question: list[str]) -> Task:
    """The same of effects, which know the question's tokens alone."""
    for task in DECLARED.values():
        if question == list(task.question):
            return task
    return Task("own", tuple(question), (ProbeType("unseen", GENERALISATION),))


def _one_of(name: str, wanted: str | None, default: str, known: list[str]) -> str:
    if wanted is not None and wanted not in known:
        raise UserError(f"plot: {name} {wanted!a} is none of {', '.join(known)}")
    return wanted or default
