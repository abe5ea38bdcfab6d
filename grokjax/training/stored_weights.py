"""Stored weights, read back run by run."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from grokjax.base.errors import UserError
from grokjax.model import init
from grokjax.settings.identity import settings_hash
from grokjax.training.resolve import model_config
from grokjax.training.step import RunState
from grokjax.workdir.checkpoints import Checkpoints
from grokjax.workdir.layout import read_config, read_task, read_vocab_size


def analysis_weights(state: RunState) -> dict[str, Any]:
    """What the analysis reads of a state."""
    return {name: getattr(state, name) for name in ("params", "ema_params", "buffers")}


def read_weights(
    workdir: str | os.PathLike,
    names: Sequence[str],
    runs: int | Sequence[int],
    step: int | None,
) -> dict[str, Any]:
    """Buffers, and the weights asked for, at a stored step; on the host.

    Args:
      workdir: of a population.
      names: "params", "ema_params" or both.
      runs: one run; or several in the order wanted, which gives a leading run axis.
      step: the last that is stored when None.

    Raises:
      UserError: nothing is stored, or it is damaged.
    """
    config = read_config(workdir)
    model = model_config(config, read_vocab_size(workdir), read_task(workdir, config))
    keys = jax.ShapeDtypeStruct((max(len(config.runs), 1),), jax.random.key(0).dtype)
    params, buffers = jax.eval_shape(jax.vmap(lambda key: init(model, key)), keys)
    like = dict.fromkeys(names, params) | {"buffers": buffers}
    folder = pathlib.Path(workdir) / "checkpoints"
    with Checkpoints(folder, settings=settings_hash(config)) as checkpoints:
        stored = checkpoints.steps("analysis")
        if not stored:
            raise UserError(f"{checkpoints.directory}: no parameters are stored; train first")
        step = stored[-1] if step is None else step
        return checkpoints.restore_analysis(step, like, runs)
