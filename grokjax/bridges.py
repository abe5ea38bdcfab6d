"""Other people's files: their trained models in, our results out (protocol section 3)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from grokjax import interop
from grokjax.checkpoint import Checkpoints
from grokjax.config import default_config
from grokjax.curves import CurveWriter, write_runs
from grokjax.dataset import PAD, Dataset, make_batch
from grokjax.devices import setup_precision
from grokjax.errors import UserError
from grokjax.experiment import validate
from grokjax.folder import item_texts, load_dataset
from grokjax.lens import lens_stream, top_tokens
from grokjax.loop import curve_rows, weights
from grokjax.model import ModelConfig, Params, forward_all_steps
from grokjax.population import Population, evaluated_model, model_config
from grokjax.results import Results, load, run_table
from grokjax.sweep import expand
from grokjax.workdir import write_config

# What these settings can be here; other models of the official code are not ours.
_FIXED = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "H_layers": 0}
_LENS_TYPES = ("test_inferred_ood", "test_inferred_new", "test_inferred_new_mix")
_BATCH = 512


def import_official(
    weights_file: str | os.PathLike,
    config_file: str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    step: int = 0,
) -> Results:
    """A model of the official code as a workdir of one run, evaluated once.

    Their files hold averaged weights, which become both the parameters and their average.

    Args:
      weights_file: a state dict, `.npz` of named arrays or a PyTorch file (if torch is installed).
      config_file: JSON with `model_config`, or the training config with `arch`, or `arch` alone.
      data: the folder that the model was trained on.
      out: a new workdir.
      step: that the weights are from.

    Raises:
      UserError: a file is missing or of another kind; nothing has been written then.
    """
    arrays = interop.bare_names(read_arrays(weights_file))
    arch, training = _read_official_config(config_file)
    vocab_size = _embedding_rows(arrays, weights_file)
    try:
        model = interop.model_config_from_official(arch, vocab_size)
    except KeyError as error:
        raise UserError(f"{config_file}: no setting {error} of the official model") from None
    for name, value in _FIXED.items():
        if arch.get(name, value) != value:
            raise UserError(f"{config_file}: {name} is {arch[name]}, only {value} is supported")
    if interop.REGISTERS in arrays:  # our queries are all of identifier 0
        arrays[interop.REGISTERS] = arrays[interop.REGISTERS][:1]
    params, buffers = interop.params_from_official(arrays, model)
    config = _imported_config(model, data, step)
    loss = str(training.get("arch", {}).get("loss", {}).get("loss_type", "stablemax_cross_entropy"))
    config.train.loss = "softmax" if loss.startswith("softmax") else "stablemax"
    official = {
        "train.batch_size": "global_batch_size", "optimizer.learning_rate": "lr",
        "optimizer.warmup_steps": "lr_warmup_steps", "optimizer.weight_decay": "weight_decay",
        "optimizer.beta1": "beta1", "optimizer.beta2": "beta2",
        "optimizer.register_learning_rate": "puzzle_emb_lr",
        "optimizer.register_weight_decay": "puzzle_emb_weight_decay",
        "optimizer.ema_rate": "ema_rate",
    }  # fmt: skip
    for ours, theirs in official.items():
        if theirs in training:
            section, name = ours.split(".")
            kind = type(config[section][name])
            config[section][name] = kind(training[theirs])
    return _write_workdir(config, params, buffers, out, step)


def export_results(
    workdir: str | os.PathLike, run_id: int, out: str | os.PathLike
) -> list[pathlib.Path]:
    """`checkpoint-<step>/all_items.json` and `logit_lens_ood.json` of every stored checkpoint.

    EMA weights. The authors' notebook functions read these folders.

    Args:
      workdir: of a trained or imported population.
      run_id: which of its runs.
      out: gets a folder per checkpoint; files that exist are not written over.

    Returns:
      The folders.

    Raises:
      UserError: there is no such run, or a file would be written over.
    """
    results = load(workdir)
    if run_id not in results.runs.run_id.tolist():
        raise UserError(f"--run={run_id}: {workdir} has runs 0 to {len(results.runs) - 1}")
    setup_precision(results.config.model.dtype)
    steps = results.checkpoint_steps()
    folders = [pathlib.Path(out) / f"checkpoint-{step}" for step in steps]
    for folder in folders:
        for name in ("all_items.json", "logit_lens_ood.json"):
            if (folder / name).exists():
                raise UserError(f"{folder / name}: exists already; give a new folder")
    dataset = results.dataset(run_id)
    model = model_config(results.config, dataset.vocabulary.size)
    model = evaluated_model(results.config, model)
    for step, folder in zip(steps, folders, strict=True):
        stored = results.parameters(run_id, step)
        predicted, top = predictions(model, stored["ema_params"], stored["buffers"], dataset)
        folder.mkdir(parents=True, exist_ok=True)
        items = _all_items(dataset, predicted)
        (folder / "all_items.json").write_text(json.dumps(items, indent=4))
        lens = _lens_items(dataset, predicted, top, model)
        text = json.dumps(lens, indent=2, ensure_ascii=False)
        (folder / "logit_lens_ood.json").write_text(text)
    return folders


def predictions(
    model: ModelConfig, params: Params, buffers: Any, dataset: Dataset
) -> tuple[Int[np.ndarray, "Q T"], Int[np.ndarray, "G Q T"]]:
    """First choices of the model and of the lens at every stage, for all probe queries."""
    query = np.asarray(dataset.probes.table.query)
    padded = np.pad(query, [(0, -len(query) % _BATCH), (0, 0)])
    predicted, tops = [], []
    for i in range(0, len(query), _BATCH):
        p, t = _predict(model, params, buffers, padded[i : i + _BATCH], dataset.vocabulary.end_id)
        predicted.append(p)
        tops.append(t)
    return (
        np.concatenate(predicted)[: len(query)],
        np.concatenate(tops, axis=1)[:, : len(query)],
    )


@functools.partial(jax.jit, static_argnums=(0, 4))
def _predict(
    model: ModelConfig, params: Params, buffers: Any, query: Array, end_id: int
) -> tuple[Int[Array, "B T"], Int[Array, "G B T"]]:
    batch = make_batch(query, end_id)
    output = forward_all_steps(model, params, buffers, batch)
    predicted = jnp.argmax(output.logits, axis=-1)
    if not model.predicts_input:
        asked = jnp.arange(predicted.shape[1]) < batch.answer_position[:, None]
        predicted = jnp.where(asked, batch.labels, predicted)
    return predicted, top_tokens(model, params, output.trace)


def _all_items(dataset: Dataset, predicted: Int[np.ndarray, "Q T"]) -> list[dict[str, str]]:
    texts = item_texts(dataset.vocabulary, np.asarray(dataset.probes.table.query))
    types = (dataset.probes.names[kind] for kind in dataset.probes.kind)
    return [
        text | {"type": kind, "model_output": dataset.vocabulary.decode(ids)}
        for text, kind, ids in zip(texts, types, predicted.tolist(), strict=True)
    ]


def _lens_items(
    dataset: Dataset,
    predicted: Int[np.ndarray, "Q T"],
    top: Int[np.ndarray, "G Q T"],
    model: ModelConfig,
) -> list[dict[str, Any]]:
    def names(ids: Int[np.ndarray, T]) -> list[str]:
        tokens = dataset.vocabulary.tokens
        return [tokens[i - 1] if i != PAD else f"<UNK:{PAD}>" for i in ids.tolist()]

    items = []
    for i, item in enumerate(_all_items(dataset, predicted)):
        if item["type"] in _LENS_TYPES:
            trace = [
                {"stage": stage, "stream": lens_stream(stage), "predictions": names(top[g, i])}
                for g, stage in enumerate(model.evaluation_stages)
            ]
            items.append(
                {
                    "type": item["type"],
                    "input_text": item["input_text"],
                    "target_text": item["target_text"],
                    "model_final_output": names(top[-1, i]),
                    "logit_lens_trace": trace,
                }
            )
    return items


def read_arrays(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
    """Named arrays of an `.npz`, safetensors or PyTorch file; nothing in it is executed.

    Raises:
      UserError: there is no such file, or it is of another kind.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file; give named arrays, .npz or of PyTorch")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(file)
        import torch  # type: ignore[import-not-found]

        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: value.float().numpy() for name, value in state.items()}
    except ModuleNotFoundError:
        raise UserError(f"{file}: reading it takes torch; install it, or give an .npz") from None
    except Exception as error:  # whatever the readers of three formats meet
        raise UserError(f"{file}: not named arrays ({str(error).splitlines()[0][:80]})") from None


def _read_official_config(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The official model's settings and those of its training."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except OSError:
        raise UserError(f"{path}: no such file; give the official config.json") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({str(error)[:80]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; give the official config.json")
    training = content.get("pretrain_config", content)
    arch = content.get("model_config") or content.get("arch") or training.get("arch") or content
    return dict(arch), dict(training)


def _embedding_rows(arrays: Mapping[str, np.ndarray], file: str | os.PathLike) -> int:
    for name, array in arrays.items():
        if name.endswith("embed_tokens.embedding_weight"):
            return len(array)
    raise UserError(f"{file}: array 'embed_tokens.embedding_weight' is missing; another model?")


def _imported_config(model: ModelConfig, data: str | os.PathLike, step: int) -> ConfigDict:
    config = default_config()
    config.name = "imported"
    config.data.folder = str(pathlib.Path(data).resolve())
    settings = dataclasses.asdict(model)
    for name in config.model:
        config.model[name] = settings[name]
    config.train.num_steps = max(step, 1)
    return config


def _write_workdir(
    config: ConfigDict, params: Params, buffers: Any, out: str | os.PathLike, step: int
) -> Results:
    """A workdir of one run at one step, built aside and moved into place as the last act."""
    path = pathlib.Path(out)
    if not str(out).strip():
        raise UserError("--out: the path is empty; give a new folder")
    if os.path.lexists(path):
        raise UserError(f"{path}: exists already; give a new folder")
    validate(config)
    setup_precision(config.model.dtype)
    runs = expand(config)
    dataset = load_dataset(runs[0].data, 0)
    size, known = dataset.vocabulary.size, config.model.vocab_size
    if known not in (size, size - 1):
        raise UserError(
            f"{config.data.folder}: its vocabulary of {size} tokens, PAD included, does not go with"
            f" a model of {known}; give the folder that the model was trained on"
        )
    population = Population(config, runs, [dataset], jax.devices()[:1])
    state = population.init()
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], (params, buffers))
    _check_shapes(stacked[0], state.params)
    state = dataclasses.replace(
        state,
        params=stacked[0],
        ema_params=stacked[0],
        buffers=stacked[1],
        step=jnp.full((1,), step, jnp.int32),
    )
    state = population.place(state)
    table = run_table(config, runs, [dataset])
    with _moved_into(path) as scratch:
        write_config(scratch, config, size)
        stages = population.evaluate_config.model.evaluation_stages
        rows = curve_rows(table, stages, step, population.evaluate(state), None)
        table[0]["status"] = "done"
        write_runs(scratch, table)
        CurveWriter(scratch).append(rows)
        with Checkpoints(scratch / "checkpoints") as saved:
            saved.save_analysis(step, weights(population, state))
    return load(path)


@contextlib.contextmanager
def _moved_into(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `path` that takes its name if all goes well, and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        os.rename(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _check_shapes(found: Params, wanted: Params) -> None:
    def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(key, simple=True): leaf.shape[1:] for key, leaf in leaves}

    have = shapes(found)
    for name, shape in shapes(wanted).items():
        if have.get(name) != shape:
            raise UserError(
                f"weights: {name} is {have.get(name, 'absent')}, the config asks for {shape};"
                f" {math.prod(shape):,} values"
            )
