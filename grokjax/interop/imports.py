"""Other people's trained models as workdirs of ours."""

from __future__ import annotations

import contextlib
import dataclasses
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
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import given_path, read_json
from grokjax.base.names import DONE
from grokjax.data.composition import COMPOSITION
from grokjax.data.folder import read_folder
from grokjax.data.loading import load_dataset
from grokjax.data.vocabulary import Vocabulary
from grokjax.interop.weights import (
    OPTIMIZER_NAMES,
    REGISTERS,
    bare_names,
    loss_from_official,
    model_config_from_official,
    params_from_gpt2,
    params_from_official,
    read_arrays,
)
from grokjax.model import DECODER, ModelConfig, Params
from grokjax.results import Results, load
from grokjax.runtime.devices import setup_precision
from grokjax.settings import default_config
from grokjax.settings.identity import settings_hash
from grokjax.settings.rows import expand
from grokjax.training.log import curve_rows, run_table
from grokjax.training.population import Population
from grokjax.training.resolve import check_settings
from grokjax.training.stored_weights import analysis_weights
from grokjax.workdir.arrays import shapes_by_name
from grokjax.workdir.checkpoints import Checkpoints
from grokjax.workdir.layout import write_config
from grokjax.workdir.tables import CurveWriter, write_runs

# What these settings can be here; other models of the official code are not ours.
_FIXED = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "H_layers": 0}
_GPT2_FIXED = {
    "model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "n_inner": None,
    "tie_word_embeddings": True, "no_ln": False, "no_mlp": False, "share_mlp": False,
}  # fmt: skip


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
    arrays = bare_names(read_arrays(weights_file))
    arch, training = _read_official_config(config_file)
    vocab_size = _embedding_rows(arrays, weights_file)
    try:
        model = model_config_from_official(arch, vocab_size)
    except KeyError as error:
        raise UserError(f"{config_file}: no setting {error} of the official model") from None
    for name, value in _FIXED.items():
        if arch.get(name, value) != value:
            raise UserError(f"{config_file}: {name} is {arch[name]}, only {value} is supported")
    if REGISTERS in arrays:  # our queries are all of identifier 0
        arrays[REGISTERS] = arrays[REGISTERS][:1]
    params, buffers = params_from_official(arrays, model)
    config = _imported_config(model, data, step)
    config.train.loss = loss_from_official(training)
    official = {f"optimizer.{ours}": theirs for ours, theirs in OPTIMIZER_NAMES.items()}
    for ours, theirs in (official | {"train.batch_size": "global_batch_size"}).items():
        if theirs in training:
            section, name = ours.split(".")
            kind = type(config[section][name])
            config[section][name] = kind(training[theirs])
    return _write_workdir(config, params, buffers, out, step, weights_file)


def import_gpt2(
    model_dir: str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    num_loops: int | None = None,
    step: int = 0,
) -> Results:
    """A GPT-2 of the Hugging Face layout, trained on such data, as a workdir of one decoder run.

    Of its vocabulary only the dataset's tokens stay, found among the tokenizer's; PAD gets the row
    of GPT-2's padding, or else of its end of text.

    Args:
      model_dir: has `config.json`, the tokenizer's files and `model.safetensors`
        (`pytorch_model.bin` if torch is installed).
      data: the folder whose tokens and items the model knows.
      out: a new workdir.
      num_loops: times that the layers run; by default what the config says, or once.
      step: that the weights are from.

    Raises:
      UserError: a file is missing or of another kind; nothing has been written then.
    """
    folder = pathlib.Path(model_dir)
    c = _read_json(folder / "config.json")
    for name, value in _GPT2_FIXED.items():
        if c.get(name, value) != value:
            raise UserError(f"{folder / 'config.json'}: {name} is {c[name]}, only {value} is known")
    try:
        size, heads, depth = c["n_embd"], c["n_head"], c["n_layer"]
        known = ModelConfig(
            c["vocab_size"], size, depth, 1, 1, kind=DECODER, num_heads=heads,
            seq_len=c["n_positions"], num_loops=num_loops or _recurrence(c),
            dropout=c.get("resid_pdrop", 0.0),
        )  # fmt: skip
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'}: no setting {error} of a GPT-2") from None
    weights_file = folder / "model.safetensors"
    if not weights_file.exists():
        weights_file = folder / "pytorch_model.bin"
    params = params_from_gpt2(read_arrays(weights_file), known)
    rows = _token_rows(folder, c, read_folder(data).vocabulary)
    params["embed"] = params["embed"][rows]
    params["positions"] = params["positions"][: COMPOSITION.num_tokens]
    model = dataclasses.replace(known, vocab_size=len(rows), seq_len=COMPOSITION.num_tokens)
    config = _imported_config(model, data, step)
    config.train.loss = "softmax"
    return _write_workdir(config, params, {}, out, step, weights_file)


def _recurrence(config: Mapping[str, Any]) -> int:
    """Loops that a GPT-2 config asks for: a number, or a switch that means two."""
    for name in ("num_loops", "n_loop", "recurrence", "add_recurrence"):
        if config.get(name):
            return 2 if config[name] is True else int(config[name])
    return 1


def _token_rows(
    folder: pathlib.Path, config: Mapping[str, Any], vocabulary: Vocabulary
) -> list[int]:
    """For PAD and each of our tokens the row of GPT-2's embedding."""
    ids: dict[str, int] = {}
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).exists():
            ids |= _read_json(folder / name)
    if (folder / "tokenizer.json").exists():
        tokenizer = _read_json(folder / "tokenizer.json")
        ids |= tokenizer.get("model", {}).get("vocab", {})
        ids |= {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", [])}
    padding = config.get("pad_token_id")
    padding = config.get("eos_token_id", 0) if padding is None else padding
    rows = [padding]
    needed = vocabulary.entity_ids | vocabulary.relation_ids | {vocabulary.end_id}
    for token in vocabulary.tokens:
        if token not in ids and vocabulary.ids[token] in needed:
            raise UserError(f"{folder}: its tokenizer has no token {token}; is it of other data?")
        rows.append(ids.get(token, padding))
    if max(rows) >= config["vocab_size"] or min(rows) < 0:
        raise UserError(f"{folder}: its tokenizer has ids beyond the model's vocabulary")
    return rows


def _read_official_config(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The official model's settings and those of its training."""
    content = _read_json(path)
    training = content.get("pretrain_config", content)
    arch = content.get("model_config") or content.get("arch") or training.get("arch") or content
    return dict(arch), dict(training)


def _read_json(path: str | os.PathLike) -> dict[str, Any]:
    try:
        content = read_json(pathlib.Path(path).resolve())  # caches of models are links
    except OSError:
        raise UserError(f"{path}: no such file; it belongs to the model") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


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
    config: ConfigDict,
    params: Params,
    buffers: Any,
    out: str | os.PathLike,
    step: int,
    source: str | os.PathLike,
) -> Results:
    """A workdir of one run at one step, built aside and moved into place as the last act."""
    path = given_path(out, "--out")
    if os.path.lexists(path):
        raise UserError(f"{path}: exists already; give a new folder")
    check_settings(config)
    setup_precision(config.model.dtype)
    runs = expand(config)
    dataset = load_dataset(runs[0])
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
        write_config(scratch, config, size, imported_from=str(source))
        stages = population.evaluate_config.model.evaluation_stages
        rows = curve_rows(table, stages, step, population.evaluate(state), None)
        table[0]["status"] = DONE
        write_runs(scratch, table)
        CurveWriter(scratch).append(rows)
        settings = settings_hash(config)
        with Checkpoints(scratch / "checkpoints", settings=settings) as saved:
            saved.save_analysis(step, analysis_weights(state))
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
    """Both with a run axis before the others."""
    have = {name: shape[1:] for name, shape in shapes_by_name(found).items()}
    for name, (_, *shape) in shapes_by_name(wanted).items():
        if have.get(name) != tuple(shape):
            raise UserError(
                f"weights: {name} is {have.get(name, 'absent')}, the config asks for"
                f" {tuple(shape)}; {math.prod(shape):,} values"
            )
