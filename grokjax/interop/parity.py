"""Our numbers against golden ones that the PyTorch code of others has printed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grokjax.base.errors import UserError
from grokjax.data.dataset import Batch
from grokjax.interop import golden
from grokjax.interop.golden import Arrays
from grokjax.interop.weights import loss_from_official, read_arrays
from grokjax.model import Buffers, ModelConfig, Params, forward
from grokjax.model.decoder import final_norm
from grokjax.model.lens import lens_logits
from grokjax.training.losses import halting_losses, sequence_losses, sequences_correct, token_losses
from grokjax.training.optim import Hyperparameters, OptimizerConfig
from grokjax.training.step import TrainConfig, apply_batch, batch_loss, init_run

# Of a correct port. float32 parameters: share of entries that may be off at all (those with a tiny
# gradient, where Adam's first steps are the learning rate up or down), and EMA.
_ATOL = {"float32": 2e-4, "float64": 1e-10}
_LOSS_RTOL = {"float32": 1e-5, "float64": 1e-10}
_EMA_ATOL = {"float32": 2e-5, "float64": 1e-10}
_FREE_SHARE, _FREE_ABOVE = 0.005, 1e-5
# bfloat16: statistics alone, a share of the standard deviation.
_BF16_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Difference:
    """One quantity of one file: how far ours is from theirs, and whether that may be."""

    quantity: str
    absolute: float
    relative: float  # of the largest magnitude
    allowed: str
    ok: bool


def compare(path: str | os.PathLike) -> list[Difference]:
    """Every quantity of a golden file that we can compute too.

    Raises:
      UserError: the file is none of these.
    """
    z = read_arrays(path)
    try:
        if "batches/target_ids" in z:
            with jax.default_matmul_precision("highest"):
                return list(_gpt2(z))
        config = golden.model_config(z)
        x64 = jax.enable_x64(True) if config.dtype == "float64" else contextlib.nullcontext()
        with x64, jax.default_matmul_precision("highest"):
            return list(_training(z, config) if "batches/inputs" in z else _forward(z, config))
    except KeyError as error:
        raise UserError(f"{path}: no array {error}; not a golden file of this layout") from None
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"{path}: cannot be compared ({reason})") from None


def table(path: str | os.PathLike, differences: Sequence[Difference]) -> str:
    """Text for a terminal."""
    lines = [f"{path}"]
    lines.append(f"  {'quantity':34s} {'absolute':>10s} {'relative':>10s}  allowed")
    for d in differences:
        verdict = "" if d.ok else "  BEYOND"
        lines.append(
            f"  {d.quantity:34s} {d.absolute:10.2e} {d.relative:10.2e}  {d.allowed}{verdict}"
        )
    return "\n".join(lines)


def _forward(z: Arrays, config: ModelConfig) -> Iterator[Difference]:
    params, buffers = golden.params_and_buffers(z, "param/", config)
    given = golden.batch(golden.arrays_under(z, "batch/"))
    kind = loss_from_official(golden.settings(z))
    near = _within_statistics if config.dtype == "bfloat16" else within

    @jax.jit
    def measure(params, buffers, given):
        output = forward(config, params, buffers, given)
        logits = output.logits.astype(config.param_dtype)
        correct = sequences_correct(logits, given.labels)
        answer = sequence_losses(kind, logits, given.labels)
        halting = halting_losses(output.q_logits[:, 0], correct)
        return {
            "input_embeddings": output.embedding,
            "stage_z_H": output.trace.z_H,
            "stage_z_L": output.trace.z_L,
            "lens_logits": lens_logits(config, params, output.trace),
            "logits": logits,
            "q_halt_logits": output.q_logits[:, 0],
            "q_continue_logits": output.q_logits[:, 1],
            "token_loss": token_losses(kind, logits, given.labels),
            "metric/lm_loss": jnp.sum(answer),
            "metric/q_halt_loss": jnp.sum(halting),
            "loss_sum": jnp.sum(answer) + 0.5 * jnp.sum(halting),
        }

    ours = measure(params, buffers, given)
    tolerance = _ATOL.get(config.dtype, 0.0)
    for name, value in ours.items():
        if name in z:
            if "loss" in name and config.dtype != "bfloat16":
                allowed = _LOSS_RTOL[config.dtype] * (20 if name == "token_loss" else 1)
                yield within_relative(name, value, z[name], allowed)
            else:
                yield near(name, value, z[name], tolerance)
    if any(name.startswith("grad/") for name in z):
        train = TrainConfig(config, len(given.inputs), kind, -1)
        loss, grads = _loss_and_gradients(train, params, buffers, given)
        if config.dtype == "bfloat16":
            return
        yield within_relative("loss_scaled", loss, z["loss_scaled"], _LOSS_RTOL[config.dtype])
        wanted = golden.gradients(z, config)
        each = [within_relative("", a, b, tolerance) for a, b in _paired(grads, wanted)]
        yield worst("gradients", each)


_loss_and_gradients = jax.jit(jax.value_and_grad(batch_loss, argnums=1), static_argnums=0)


def _training(z: Arrays, config: ModelConfig) -> Iterator[Difference]:
    train = TrainConfig(
        config, z["batches/inputs"].shape[1], loss_from_official(golden.settings(z)), -1
    )
    params, buffers = golden.params_and_buffers(z, "step0/param/", config)
    # A file has the buffers once, with the parameters that it starts from.
    arrays = {name: np.asarray(buffers[name]) for name in ("H_init", "L_init")} | dict(z)
    columns = golden.arrays_under(z, "batches/")
    return _steps(
        z,
        train,
        golden.hyperparameters(z, config.param_dtype),
        (params, buffers),
        (
            golden.batch({name: value[i] for name, value in columns.items()})
            for i in range(len(z["batches/inputs"]))
        ),
        z["loss_scaled"] if "loss_scaled" in z and config.dtype != "bfloat16" else None,
        lambda prefix: golden.params_and_buffers(arrays, prefix, config)[0],
    )


def _gpt2(z: Arrays) -> Iterator[Difference]:
    """One batch, its gradients, and some steps; GPT-2 learns in float32."""
    config, swap = golden.gpt2_config(z), golden.gpt2_swap(z)
    params = golden.gpt2_params(z, "step0/param/", config, swap)
    batches = [golden.gpt2_batch(z, i, swap) for i in range(len(z["batches/target_ids"]))]
    atol = _ATOL["float32"]
    output = forward(config, params, {}, batches[0])
    hidden = jnp.concatenate(
        [output.trace.z_H[:-1], final_norm(config, params, output.trace.z_H[-1:])]
    )
    yield within("logits", output.logits[:, 1:], z["logits"][:, :-1, swap], atol)
    yield within("hidden_states", hidden, z["hidden_states"], atol)
    last = lens_logits(config, params, output.trace)[-1]
    yield within("lens_logits, last stage", last, z["lens_logits"][-1][..., swap], atol)
    hyper = golden.gpt2_hyperparameters(z)
    optimizer = OptimizerConfig(clip=bool(jnp.isfinite(hyper.clip_norm)))
    train = TrainConfig(config, len(batches[0].inputs), "softmax", -1, optimizer)
    loss, grads = _loss_and_gradients(train, params, {}, batches[0])
    yield within_relative("loss", loss, z["loss"], _LOSS_RTOL["float32"])
    wanted = golden.gpt2_params(z, "grad/", config, swap)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(wanted))
    each = [within("", a, b, atol * largest) for a, b in _paired(grads, wanted)]
    yield worst("gradients", each)
    yield from _steps(
        z,
        train,
        hyper,
        (params, {}),
        batches,
        z["train/loss"],
        lambda prefix: golden.gpt2_params(z, prefix, config, swap),
    )


def _steps(
    z: Arrays,
    train: TrainConfig,
    hyper: Hyperparameters,
    start: tuple[Params, Buffers],
    batches: Iterable[Batch],
    losses: np.ndarray | None,
    stored: Callable[[str], Params],
) -> Iterator[Difference]:
    """Each step's loss, where there are `losses`, and what is `stored` under `step<i>/<kind>/`."""
    dtype, rate = train.model.dtype, float(hyper.learning_rate)
    state = dataclasses.replace(
        init_run(train, hyper, jnp.int32(0), jnp.int32(0)),
        params=start[0],
        ema_params=start[0],
        buffers=start[1],
    )
    step = jax.jit(apply_batch, static_argnums=0)
    for i, given in enumerate(batches):
        state, metrics, _ = step(train, state, hyper, given)
        if losses is not None:
            # From the second step on the free entries move a float32 loss too.
            rtol = _LOSS_RTOL[dtype] * (1 if i == 0 or dtype == "float64" else 20)
            yield within_relative(f"step {i + 1} loss", metrics.loss, losses[i], rtol)
        for kind, ours in (("param", state.params), ("ema", state.ema_params)):
            prefix = f"step{i + 1}/{kind}/"
            if golden.arrays_under(z, prefix):
                most = 2 * rate * (i + 1)
                name = f"step {i + 1} {kind}"
                yield parameters_within(name, dtype, ours, stored(prefix), most)


def parameters_within(
    name: str, dtype: str, ours: Params, theirs: Params, most: float
) -> Difference:
    """All parameters, or their averages, at one step; `most` is how far the free ones may be."""
    pairs = list(_paired(ours, theirs))
    if dtype == "bfloat16":
        return worst(name, [_within_statistics("", a, b) for a, b in pairs])
    if name.endswith("ema") or dtype == "float64":
        return worst(name, [within("", a, b, _EMA_ATOL[dtype]) for a, b in pairs])
    off = np.concatenate([np.abs(np.asarray(a) - np.asarray(b)).ravel() for a, b in pairs])
    relative = max(_apart(a, b)[1] for a, b in pairs)
    ok = bool(np.mean(off > _FREE_ABOVE) <= _FREE_SHARE and off.max() <= most)
    allowed = f"{_FREE_ABOVE:.0e} absolute, {_FREE_SHARE:.1%} of entries {most:.0e}"
    return Difference(name, float(off.max()), relative, allowed, ok)


def worst(name: str, each: Sequence[Difference]) -> Difference:
    """The largest of several, fine if all are."""
    return Difference(
        name,
        max(d.absolute for d in each),
        max(d.relative for d in each),
        each[0].allowed,
        all(d.ok for d in each),
    )


def _paired(ours: Params, theirs: Params) -> Iterator[tuple[Any, Any]]:
    return zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)


def _apart(ours: Any, theirs: Any) -> tuple[float, float, np.ndarray, np.ndarray]:
    a, b = (np.asarray(x).astype(np.float64) for x in (ours, theirs))
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    largest = float(np.max(np.abs(a - b), initial=0.0))
    scale = float(np.max(np.abs(b), initial=0.0))
    return largest, largest / scale if scale else largest, a, b


def within(name: str, ours: Any, theirs: Any, atol: float) -> Difference:
    absolute, relative, *_ = _apart(ours, theirs)
    return Difference(name, absolute, relative, f"{atol:.0e} absolute", absolute <= atol)


def within_relative(name: str, ours: Any, theirs: Any, rtol: float) -> Difference:
    absolute, relative, *_ = _apart(ours, theirs)
    return Difference(name, absolute, relative, f"{rtol:.0e} of the largest", relative <= rtol)


def _within_statistics(name: str, ours: Any, theirs: Any, _: float = 0.0) -> Difference:
    absolute, relative, a, b = _apart(ours, theirs)
    ok = bool(np.all(np.isfinite(a)))
    if a.size > 1:
        spread = float(np.std(b)) or 1.0
        shift = abs(float(np.mean(a) - np.mean(b))) + abs(float(np.std(a)) - spread)
        ok = ok and shift <= _BF16_SHARE * spread
    return Difference(name, absolute, relative, "mean and deviation", ok)


def main(paths: Sequence[str], show: Callable[[str], None] = print) -> bool:
    """Prints a table per file; whether everything is within what is allowed."""
    good = True
    for path in paths:
        differences = compare(pathlib.Path(path))
        show(table(path, differences))
        good = good and bool(differences) and all(d.ok for d in differences)
    return good
