"""One run: its state, how it starts and one optimiser step. No population axis anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Int16

from grokjax.base.names import DIVERGED, RUN_STATUSES, RUNNING
from grokjax.data.dataset import Batch, QueryTable, make_batch
from grokjax.model import Buffers, ModelConfig, Output, Params, forward
from grokjax.model import init as init_model
from grokjax.training import losses
from grokjax.training.deep_supervision import Halting, continue_or_replace, first_halting, halt
from grokjax.training.optim import Hyperparameters, OptimizerConfig, make_optimizer, update_ema
from grokjax.training.order import batch_indices

_HALTING_WEIGHT = 0.5
_DROPOUT = 1  # folded into a run's key; its order of items uses the key itself


def status_code(status: str) -> int:
    """What a run's status is on the device: its place in RUN_STATUSES."""
    return RUN_STATUSES.index(status)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What shapes the training program, besides the model."""

    model: ModelConfig
    batch_size: int
    loss: str
    end_id: int  # token id of </a>
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    # The mesh axis whose devices share each batch, within `shard_map`: a step sums over it.
    batch_axis: str | None = None

    @property
    def halts(self) -> bool:
        """Whether sequences may stay for more than one step."""
        return self.model.halt_max_steps > 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunState:
    """Everything that a step changes. A diverged run stays as it was before the bad step."""

    step: Int[Array, "*R"]
    params: Params
    ema_params: Params
    buffers: Buffers
    opt_state: Any
    carry: Halting | tuple[()]  # of sequences that go on in the next step
    status: Int[Array, "*R"]
    key: Array  # typed; the order of items derives from it, through `fold_in` alone


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def init_run(
    config: TrainConfig,
    hyper: Hyperparameters,
    init_seed: Int[Array, ""] | int,
    order_seed: Int[Array, ""] | int,
) -> RunState:
    """The state before the first step, a function of its two seeds."""
    params, buffers = init_model(config.model, jax.random.key(init_seed))
    return RunState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=params,
        buffers=buffers,
        opt_state=make_optimizer(config.optimizer, hyper).init(params),
        carry=first_halting(config.model, buffers, config.batch_size) if config.halts else (),
        status=jnp.full((), status_code(RUNNING), jnp.int32),
        key=jax.random.key(order_seed),
    )


def batch_loss(
    config: TrainConfig, params: Params, buffers: Buffers, batch: Batch
) -> Float[Array, ""]:
    """What a step minimises, on new sequences and without dropout."""
    return loss_and_output(config, params, buffers, batch)[0]


def loss_and_output(
    config: TrainConfig,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    carry: tuple[Array, ...] | None = None,
    key: Array | None = None,
) -> tuple[Float[Array, ""], Output]:
    """The loss of a batch, and the forward pass that it comes from.

    Recursive model: sum over the batch of each sequence's mean loss and half its halting loss,
    divided by the batch size; a whole model of a file without the halting loss. Decoder: mean over
    the answer's tokens in the batch. Of a batch that devices share, it is the own rows' part of the
    sum.
    """
    output = forward(config.model, params, buffers, batch, carry=carry, key=key)
    if not config.model.predicts_input:
        labels = losses.answer_labels(batch.labels, batch.answer_position)
        each = losses.token_losses(config.loss, output.logits, labels)
        return jnp.sum(each) / jnp.maximum(_over_devices(config, jnp.sum(labels > 0)), 1), output
    answer = losses.sequence_losses(config.loss, output.logits, batch.labels)
    if config.model.is_stack:  # without a halting head
        return jnp.sum(answer) / _over_devices(config, batch.labels.shape[0]), output
    correct = losses.sequences_correct(output.logits, batch.labels)
    halting = losses.halting_losses(output.q_logits[:, 0], correct)
    batch_size = _over_devices(config, batch.labels.shape[0])
    return jnp.sum(answer + _HALTING_WEIGHT * halting) / batch_size, output


def apply_batch(
    config: TrainConfig,
    state: RunState,
    hyper: Hyperparameters,
    batch: Batch,
    carry: tuple[Array, ...] | None = None,
) -> tuple[RunState, StepMetrics, Output]:
    """One optimiser step on a given batch: gradient, the optimiser's update, EMA.

    Of devices that share the batch each has all of it, and the output of its own rows.
    """
    key = None
    if config.model.dropout:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _DROPOUT), state.step)
    own_batch, own_carry = _own_rows(config, (batch, carry))
    (loss, output), grads = jax.value_and_grad(loss_and_output, argnums=1, has_aux=True)(
        config, state.params, state.buffers, own_batch, own_carry, key
    )
    loss, grads = _over_devices(config, (loss, grads))
    present = jnp.zeros(config.model.num_identifiers, bool).at[batch.identifiers].set(True)
    updates, opt_state = make_optimizer(config.optimizer, hyper).update(
        grads, state.opt_state, state.params, present=present
    )
    params = optax.apply_updates(state.params, updates)
    metrics = StepMetrics(loss, optax.tree.norm(grads))
    stepped = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        ema_params=update_ema(hyper.ema_rate, state.ema_params, params),
        opt_state=opt_state,
    )
    return _keep_if_finite(state, stepped, metrics), metrics, output


def train_step(
    config: TrainConfig,
    state: RunState,
    hyper: Hyperparameters,
    table: QueryTable,
    split_batch: Callable[[Array], Array] = lambda query: query,
    query: Int16[Array, "B C"] | None = None,
) -> tuple[RunState, StepMetrics]:
    """One step on the run's next batch.

    Args:
      config: static settings.
      state: from `init_run` or the step before.
      hyper: the run's numbers.
      table: the run's training items, on the device.
      split_batch: places a batch's rows [B, C] on devices.
      query: the rows, if they have been drawn; None draws them.
    """
    if not isinstance(state.carry, Halting):
        query = draw_queries(config, state, table, 1)[0] if query is None else query
        batch = make_batch(split_batch(query), config.end_id)
        return apply_batch(config, state, hyper, batch)[:2]
    going = continue_or_replace(config.model, state.buffers, state.carry, state.key, table)
    batch = make_batch(split_batch(going.query), config.end_id)
    stepped, metrics, output = apply_batch(config, state, hyper, batch, going.states)
    q_logits, states = _rows_of_all(config, (output.q_logits, output.carry))
    carry = halt(config.model, going, q_logits, states, state.key, state.step)
    running = stepped.status == status_code(RUNNING)
    carry = jax.tree.map(lambda n, o: jnp.where(running, n, o), carry, state.carry)
    return dataclasses.replace(stepped, carry=carry), metrics


def train_chunk(
    config: TrainConfig,
    num_steps: int,
    state: RunState,
    hyper: Hyperparameters,
    table: QueryTable,
    split_batch: Callable[[Array], Array] = lambda query: query,
) -> tuple[RunState, StepMetrics]:
    """`num_steps` steps as one scan; metrics are means over the chunk."""

    queries = None if config.halts else draw_queries(config, state, table, num_steps)

    def body(state, query):
        return train_step(config, state, hyper, table, split_batch, query)

    state, metrics = jax.lax.scan(body, state, queries, length=num_steps)
    return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


def draw_queries(
    config: TrainConfig, state: RunState, table: QueryTable, num_steps: int
) -> Int16[Array, "N B C"]:
    """The rows of the next N steps: drawn at once, so that no step waits for its items."""
    size = jnp.asarray(table.size)
    steps = state.step + jnp.arange(num_steps)
    rows = jax.vmap(lambda s: batch_indices(state.key, s, config.batch_size, size))(steps)
    return jnp.asarray(table.query)[rows]


def _over_devices(config: TrainConfig, tree: Any) -> Any:
    """Sums over the devices that share a batch."""
    return tree if config.batch_axis is None else jax.lax.psum(tree, config.batch_axis)


def _own_rows(config: TrainConfig, tree: Any) -> Any:
    """Of a whole batch, the rows that are this device's."""
    if config.batch_axis is None:
        return tree
    share = config.batch_size // jax.lax.axis_size(config.batch_axis)
    first = jax.lax.axis_index(config.batch_axis) * share
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, share), tree)


def _rows_of_all(config: TrainConfig, tree: Any) -> Any:
    """The whole batch, of what each device knows of its own rows."""
    if config.batch_axis is None:
        return tree
    return jax.lax.all_gather(tree, config.batch_axis, axis=0, tiled=True)


def _keep_if_finite(old: RunState, new: RunState, metrics: StepMetrics) -> RunState:
    """The new state if the run still trains, else the old one, marked if this step broke it."""
    finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
    running: Bool[Array, ""] = old.status == status_code(RUNNING)
    kept = jax.tree.map(lambda n, o: jnp.where(running & finite, n, o), new, old)
    status = jnp.where(running & ~finite, status_code(DIVERGED), old.status)
    return dataclasses.replace(kept, status=status)
