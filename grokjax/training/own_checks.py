"""What a file's function must be like, tried before anything is trained or written."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from grokjax.base.names import ANSWER_ACCURACY, EXACT_MATCH, TARGET_FOUND
from grokjax.data.dataset import make_batch
from grokjax.data.task import Task
from grokjax.model import ModelConfig, forward, init, own_model, readout
from grokjax.model.recursive import make_block
from grokjax.settings.own_functions import (
    is_own,
    is_own_file,
    own_function,
    own_name,
    refuse,
    telling,
    values_of,
)
from grokjax.training.optim import Hyperparameters
from grokjax.training.own import METRICS, metrics, own_moments, own_schedule

_TAKEN = (ANSWER_ACCURACY, EXACT_MATCH, TARGET_FOUND)
_TRIED = 2  # queries, rows and columns that functions are tried on


def check_own_functions(
    config: ConfigDict, task: Task, model: ModelConfig, hyper: Hyperparameters
) -> None:
    """Tries every function of a file that a population's settings name.

    Args:
      config: the population's settings.
      task: its task.
      model: with its vocabulary.
      hyper: the runs' numbers, [R] each.

    Raises:
      UserError: file and function, and what is wrong with them.
    """
    own = {n: config.optimizer[n] for n in ("schedule", "weight_decay_schedule")}
    first = jax.tree.map(lambda x: jnp.asarray(x)[0], hyper)
    if is_own(model.kind):
        _check_block(model)
    if is_own_file(model.kind):
        _check_model(model)
    for name, value in own.items():
        if is_own(value):
            _check_schedule(f"optimizer.{name}", value, hyper, config.train.num_steps)
    if is_own(config.optimizer.name):
        _check_moments(config.optimizer.name, first)
    _check_metrics(config.evaluate.metrics, task, model)


def _check_schedule(setting: str, value: str, hyper: Hyperparameters, num_steps: int) -> None:
    counts = jnp.unique(jnp.linspace(0, num_steps, 9).astype(jnp.int32))
    own_function(setting, value, ("count", "h"))
    with telling(setting, value):
        factors = jax.vmap(
            lambda h: jax.vmap(lambda n: jnp.asarray(own_schedule(setting, value, h)(n)))(counts)
        )(hyper)
    if factors.ndim != 2:
        raise refuse(setting, value, f"gives the shape {factors.shape[2:]}, not one number")
    if not np.all(np.isfinite(factors)):
        run, at = np.argwhere(~np.isfinite(factors))[0]
        wrong = f"gives {float(factors[run, at])} at step {int(counts[at]):,} of run {run}"
        raise refuse(setting, value, wrong)


def _check_moments(value: str, h: Hyperparameters) -> None:
    params = {"w": jnp.ones((_TRIED, _TRIED)), "b": jnp.full(_TRIED, 0.5)}
    made = own_moments(value, h)
    for name in ("init", "update"):
        with telling("optimizer.name", value):
            own = own_function("optimizer.name", value, ("h",))(h)
        if not callable(getattr(own, name, None)):
            raise refuse("optimizer.name", value, "gives no optax.GradientTransformation")
    state = made.init(params)
    updates, after = made.update(params, state, params)
    for what, before, now in (("updates", params, updates), ("state", state, after)):
        if _described(before) != _described(now):
            raise refuse("optimizer.name", value, f"its {what} have another tree than they began")
    if not _finite(updates):
        raise refuse("optimizer.name", value, "gives updates that are not finite")


def _check_block(model: ModelConfig) -> None:
    value = model.kind
    own_function("model.kind", value, ("config",))
    block = make_block(model)
    x = jnp.ones((model.length, _TRIED, model.hidden_size), model.dtype)
    seen = []

    def tap(component: str, y: Any) -> Any:
        seen.append(component)
        return y

    with telling("model.kind", value):
        drawn = [block.init(jax.random.key(seed), x)["params"] for seed in (0, 1)]
    _check_drawn(value, "", drawn)
    with telling("model.kind", value):
        y = block.apply({"params": drawn[0]}, x, None, tap)
    if _described(y) != _described(x):
        raise refuse("model.kind", value, f"gives {_described(y)[1]} of {_described(x)[1]}")
    if not _finite(y):
        raise refuse("model.kind", value, "gives states that are not finite")
    for component in ("mixer", "mlp"):
        if seen.count(component) != 1:
            wrong = f"calls tap('{component}', x) {seen.count(component)} times, not once"
            raise refuse("model.kind", value, f"{wrong}, and patching looks there")


def _check_model(model: ModelConfig) -> None:
    value = model.kind
    for name in own_model.SIGNATURES:
        own_model.function(model, name)
    drawn = [init(model, jax.random.key(seed))[0] for seed in (0, 1)]
    if not isinstance(drawn[0], dict):
        raise refuse(own_model.SETTING, value, "init gives no dictionary of parameters")
    _check_drawn(value, "init ", drawn)
    batch = make_batch(jnp.ones((_TRIED, model.seq_len - 1), jnp.int16), model.vocab_size - 1)
    output = forward(model, drawn[0], {}, batch)
    if not _finite(output.logits):
        raise refuse(own_model.SETTING, value, "forward gives logits that are not finite")
    read = readout(model, drawn[0], output.trace.z_H)
    wanted = (*output.trace.z_H.shape[:-1], model.vocab_size)
    if jnp.shape(read) != wanted:
        what = f"readout gives {jnp.shape(read)}, not logits [*B, T, V] {wanted}"
        raise refuse(own_model.SETTING, value, what)


def _check_drawn(value: str, who: str, drawn: Sequence[Any]) -> None:
    if _described(drawn[0]) != _described(drawn[1]):
        wrong = f"{who}draws another tree of parameters for another seed"
        raise refuse(own_model.SETTING, value, wrong)
    if not _finite(drawn[0]):
        raise refuse(own_model.SETTING, value, f"{who}draws parameters that are not finite")


def _check_metrics(value: str, task: Task, model: ModelConfig) -> None:
    functions = metrics(value)
    query = jnp.ones((_TRIED, model.seq_len - 1), jnp.int16)
    batch = make_batch(query, model.vocab_size - 1)
    for part in values_of(value):
        if not is_own(part):
            continue
        if own_name(part) in (*_TAKEN, *task.readings):
            raise refuse(METRICS, part, "has the name of a metric of ours; give it its own")

        def measured(function: Any, key: Any) -> Any:
            return function(forward(model, *init(model, key), batch), batch, query)

        function = functions[own_name(part)]
        with telling(METRICS, part):
            found = jax.eval_shape(functools.partial(measured, function), jax.random.key(0))
        shape = getattr(found, "shape", None)
        if shape != (_TRIED,):
            raise refuse(METRICS, part, f"gives the shape {shape} for {_TRIED} queries, not (2,)")


def check_measured(
    config: ConfigDict, measured: Mapping[str, Any], counts: Sequence[Mapping[str, int]]
) -> None:
    """Refuses a metric that is not finite where a run begins.

    Args:
      config: the population's settings.
      measured: what `Population.evaluate` gave before the first step, [R] each.
      counts: each run's queries by type, as `Dataset.counts`.

    Raises:
      UserError: file and function, run and column.
    """
    for part in values_of(config.evaluate.metrics):
        for column, values in measured.items():
            kind, _, name = column.rpartition("/")
            if name != own_name(part):
                continue
            for run, num in enumerate(counts):
                found = float(np.asarray(values)[run])
                if num.get(f"num_{kind.removeprefix('raw/')}") and not np.isfinite(found):
                    raise refuse(METRICS, part, f"gives {found} for {kind} queries of run {run}")


def _described(tree: Any) -> tuple[Any, Any]:
    leaves, structure = jax.tree.flatten(tree)
    return str(structure), [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves]


def _finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))
