"""Our numbers against files of golden ones that the official PyTorch code has printed.

A forward file holds parameters, one batch and everything that the model makes of it; a training
file holds batches, and parameters and their average after some of the steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grokjax.base.errors import UserError
from grokjax.data.dataset import Batch
from grokjax.interop import official as interop
from grokjax.model import Buffers, ModelConfig, Params, forward
from grokjax.model.lens import lens_logits
from grokjax.training.losses import halting_losses, sequence_losses, sequences_correct, token_losses
from grokjax.training.optim import Hyperparameters
from grokjax.training.step import TrainConfig, apply_batch, batch_loss, init_run

Arrays = Mapping[str, np.ndarray]

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
    z = read(path)
    try:
        if "batches/target_ids" in z:
            from grokjax.interop.parity_gpt2 import compare_gpt2

            with jax.default_matmul_precision("highest"):
                return list(compare_gpt2(z))
        config = model_config(z)
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


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a file; nothing in it is executed."""
    try:
        with np.load(path, allow_pickle=False) as z:
            return {name: z[name] for name in z.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError):
        raise UserError(f"{path}: not an .npz of plain arrays") from None


def model_config(z: Arrays) -> ModelConfig:
    """Our settings of the model that a file is of; float64 if its parameters are."""
    arch = _official(z)["arch"]
    prefix = "step0/param/" if "batches/inputs" in z else "param/"
    names = [name for name in z if name.endswith("embed_tokens.embedding_weight")]
    start = [name for name in names if name.startswith(prefix)] or names
    if not start:
        raise KeyError("embed_tokens.embedding_weight")
    changes: dict[str, Any] = {}
    if z[start[0]].dtype == np.float64:
        changes["dtype"] = "float64"
    identifiers = [z[name] for name in z if name.endswith(interop.REGISTERS)]
    if identifiers:
        changes["num_identifiers"] = len(identifiers[0])
    inputs = z["batches/inputs"][0] if "batches/inputs" in z else z["batch/inputs"]
    changes["seq_len"] = inputs.shape[1]
    return interop.model_config_from_official(arch, len(z[start[0]]), **changes)


def group(z: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name starts so, without it."""
    return {name[len(prefix) :]: value for name, value in z.items() if name.startswith(prefix)}


def batch(arrays: Arrays) -> Batch:
    """A batch of the official code; negative labels are ignored, as PAD is."""
    inputs = jnp.asarray(arrays["inputs"])
    identifiers = arrays.get("puzzle_identifiers", np.zeros(len(inputs), np.int32))
    return Batch(
        inputs=inputs,
        labels=jnp.asarray(arrays["labels"]),
        answer_position=jnp.sum(inputs > 0, axis=1),
        identifiers=jnp.asarray(identifiers),
    )


def params_and_buffers(z: Arrays, prefix: str, config: ModelConfig) -> tuple[Params, Buffers]:
    """What a file has under a prefix such as `param/` or `step0/param/`, as ours."""
    arrays = group(z, prefix) | group(z, "buffer/")
    for name in ("H_init", "L_init"):
        if name in z:
            arrays[name] = z[name]
    registers = prefix.removesuffix("param/").removesuffix("ema/") + interop.REGISTERS
    if registers in z:
        arrays[interop.REGISTERS] = z[registers]
    return jax.tree.map(jnp.asarray, interop.params_from_official(arrays, config))


def hyperparameters(z: Arrays, dtype: Any) -> Hyperparameters:
    """The numbers that a file's training ran with."""
    c = _official(z)
    values = {
        "learning_rate": c["lr"],
        "warmup_steps": c["lr_warmup_steps"],
        "weight_decay": c["weight_decay"],
        "beta1": c["beta1"],
        "beta2": c["beta2"],
        "eps": 1e-8,
        "register_learning_rate": c["puzzle_emb_lr"],
        "register_weight_decay": c["puzzle_emb_weight_decay"],
        "ema_rate": c["ema_rate"],
    }
    return Hyperparameters(**{name: jnp.asarray(v, dtype) for name, v in values.items()})


def gradients(z: Arrays, config: ModelConfig) -> Params:
    """A file's gradients as ours: rows of the registers are summed per identifier."""
    arrays = group(z, "grad/") | group(z, "buffer/")
    rows = arrays.pop("puzzle_emb.local_weights", None)
    if rows is not None:
        total = np.zeros((config.num_identifiers, rows.shape[1]), rows.dtype)
        np.add.at(total, z["batch/puzzle_identifiers"], rows)
        arrays[interop.REGISTERS] = total
    return interop.params_from_official(arrays, config)[0]


def loss_kind(z: Arrays) -> str:
    """`stablemax` or `softmax`."""
    kind = str(_official(z)["arch"].get("loss", {}).get("loss_type", "stablemax_cross_entropy"))
    return "softmax" if kind.startswith("softmax") else "stablemax"


def _forward(z: Arrays, config: ModelConfig) -> Iterator[Difference]:
    params, buffers = params_and_buffers(z, "param/", config)
    given = batch(group(z, "batch/"))
    kind = loss_kind(z)
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
        compute = jax.jit(jax.value_and_grad(batch_loss, argnums=1), static_argnums=0)
        loss, grads = compute(train, params, buffers, given)
        if config.dtype == "bfloat16":
            return
        yield within_relative("loss_scaled", loss, z["loss_scaled"], _LOSS_RTOL[config.dtype])
        wanted = gradients(z, config)
        each = [within_relative("", a, b, tolerance) for a, b in _paired(grads, wanted)]
        yield worst("gradients", each)


def _training(z: Arrays, config: ModelConfig) -> Iterator[Difference]:
    hyper = hyperparameters(z, config.param_dtype)
    num_steps, batch_size = z["batches/inputs"].shape[:2]
    train = TrainConfig(config, batch_size, loss_kind(z), -1)
    params, buffers = params_and_buffers(z, "step0/param/", config)
    state = dataclasses.replace(
        init_run(train, hyper, jnp.int32(0), jnp.int32(0)),
        params=params,
        ema_params=params,
        buffers=buffers,
    )
    step = jax.jit(apply_batch, static_argnums=0)
    rate = float(hyper.learning_rate)
    for i in range(num_steps):
        given = batch({name: value[i] for name, value in group(z, "batches/").items()})
        state, metrics, _ = step(train, state, hyper, given)
        if "loss_scaled" in z and config.dtype != "bfloat16":
            # From the second step on the free entries move a float32 loss too.
            rtol = _LOSS_RTOL[config.dtype] * (1 if i == 0 or config.dtype == "float64" else 20)
            name = f"step {i + 1} loss"
            yield within_relative(name, metrics.loss, z["loss_scaled"][i], rtol)
        for kind, ours in (("param", state.params), ("ema", state.ema_params)):
            prefix = f"step{i + 1}/{kind}/"
            if not group(z, prefix):
                continue
            arrays = dict(z)
            missing = {"H_init": np.asarray(buffers["H_init"]), "L_init": buffers["L_init"]}
            for name, value in missing.items():
                arrays.setdefault(name, np.asarray(value))
            want, _ = params_and_buffers(arrays, prefix, config)
            yield parameters_within(
                f"step {i + 1} {kind}", config.dtype, ours, want, 2 * rate * (i + 1)
            )


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


def _official(z: Arrays) -> dict[str, Any]:
    try:
        return json.loads(str(z["config"]))
    except ValueError:
        raise KeyError("config") from None


def main(paths: Sequence[str], show: Callable[[str], None] = print) -> bool:
    """Prints a table per file; whether everything is within what is allowed."""
    good = True
    for path in paths:
        differences = compare(pathlib.Path(path))
        show(table(path, differences))
        good = good and bool(differences) and all(d.ok for d in differences)
    return good
