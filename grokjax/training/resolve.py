"""From settings to what programs are made of: model, optimiser, numbers of each run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import BEST
from grokjax.data.composition import COMPOSITION
from grokjax.data.loading import vocabulary_of
from grokjax.data.task import Task
from grokjax.data.tasks import DECLARED
from grokjax.model import ModelConfig
from grokjax.settings.validation import validate
from grokjax.training.evaluate import check_position
from grokjax.training.optim import HYPERPARAMETERS, Hyperparameters, OptimizerConfig


def check_settings(config: ConfigDict) -> None:
    """All that can be found wrong before there are data: `validate`, and what the model knows.

    Raises:
      UserError: one line with the setting, its value and what would do.
    """
    validate(config)
    stages = evaluated_model(config, model_config(config, vocab_size=1)).evaluation_stages
    if config.evaluate.path_stage not in (BEST, *stages):
        raise UserError(
            f"evaluate.path_stage: '{config.evaluate.path_stage}' is none of {BEST},"
            f" {', '.join(stages)}"
        )
    task = DECLARED.get(COMPOSITION.name if config.data.folder else config.data.task)
    if task is not None:  # of one of the user's own its function has to be called first
        check_position(task, config.evaluate.path_position)


def model_config(config: ConfigDict, vocab_size: int, task: Task = COMPOSITION) -> ModelConfig:
    """The static model settings of a config; `vocab_size` and task are the dataset's."""
    settings = config.model.to_dict()
    settings["vocab_size"] = settings["vocab_size"] or vocab_size
    settings |= {"seq_len": task.num_tokens, "token_names": task.positions}
    return ModelConfig(**settings)


def evaluated_model(config: ConfigDict, model: ModelConfig) -> ModelConfig:
    """The model at the depth that `config.evaluate` asks for; nobody trains it."""
    depth = {
        name: config.evaluate[name]
        for name in ("H_cycles", "L_cycles", "num_loops")
        if config.evaluate[name]
    }
    return dataclasses.replace(model, **depth, remat="none")


def optimizer_config(config: ConfigDict, runs: Sequence[ConfigDict]) -> OptimizerConfig:
    """What shapes the update: a part is there as soon as one run uses it."""
    o = config.optimizer
    return OptimizerConfig(
        o.name,
        o.schedule,
        o.weight_decay_schedule,
        grokfast=any(run.optimizer.grokfast_lambda for run in runs),
        clip=any(run.optimizer.clip_norm < math.inf for run in runs),
        orthograd=any(run.optimizer.orthograd for run in runs),
    )


def hyperparameters(runs: Sequence[ConfigDict], dtype: Any = jnp.float32) -> Hyperparameters:
    """Each run's numbers, [R] each."""
    return Hyperparameters(
        **{
            name: jnp.array([run.optimizer[name] for run in runs], dtype)
            for name in HYPERPARAMETERS
        }
    )


def planned_model(config: ConfigDict) -> ModelConfig:
    """The model of a population, its vocabulary counted without making the data if it can be."""
    return model_config(config, *vocabulary_of(config))
