"""Our results as the authors' files (docs/protocol.md, section 3), which their notebook draws."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from grokjax.base.errors import UserError
from grokjax.base.names import TEST_INFERRED_NEW, TEST_INFERRED_NEW_MIX, TEST_INFERRED_OOD
from grokjax.data.dataset import Dataset, make_batch
from grokjax.data.folder import in_authors_types, item_text
from grokjax.data.vocabulary import PAD
from grokjax.model import ModelConfig, Params, forward_all_steps
from grokjax.model.lens import lens_stream, top_tokens
from grokjax.runtime.devices import setup_precision
from grokjax.sweeps.results import load

_LENS_TYPES = (TEST_INFERRED_OOD, TEST_INFERRED_NEW, TEST_INFERRED_NEW_MIX)
_BATCH = 512


def export_results(
    workdir: str | os.PathLike, run_id: int, out: str | os.PathLike
) -> list[pathlib.Path]:
    """`checkpoint-<step>/all_items.json` and `logit_lens_ood.json` of every stored checkpoint.

    EMA weights. The authors' notebook functions read these folders.

    Args:
      workdir: of a trained or imported population, or of a sweep.
      run_id: which of its runs.
      out: gets a folder per checkpoint; files that exist are not written over.

    Returns:
      The folders.

    Raises:
      UserError: there is no such run, or a file would be written over.
    """
    results, run_id = load(workdir).locate(run_id)
    dataset = in_authors_types(results.dataset(run_id))
    setup_precision(results.config.model.dtype)
    steps = results.checkpoint_steps()
    folders = [pathlib.Path(out) / f"checkpoint-{step}" for step in steps]
    for folder in folders:
        for name in ("all_items.json", "logit_lens_ood.json"):
            if (folder / name).exists():
                raise UserError(f"{folder / name}: exists already; give a new folder")
    model = results.model
    for step, folder in zip(steps, folders, strict=True):
        predicted, top = predictions(model, *results.weights(run_id, step), dataset)
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
        asked = jnp.arange(predicted.shape[1])[None] < batch.answer_position[:, None]
        predicted = jnp.where(asked, batch.labels, predicted)
    return predicted, top_tokens(model, params, output.trace)


def _all_items(dataset: Dataset, predicted: Int[np.ndarray, "Q T"]) -> list[dict[str, str]]:
    queries = np.asarray(dataset.probes.table.query).tolist()
    return [
        item_text(dataset.vocabulary, query)
        | {"type": kind, "model_output": dataset.vocabulary.decode(ids)}
        for query, kind, ids in zip(
            queries, dataset.probes.types.tolist(), predicted.tolist(), strict=True
        )
    ]


def _lens_items(
    dataset: Dataset,
    predicted: Int[np.ndarray, "Q T"],
    top: Int[np.ndarray, "G Q T"],
    model: ModelConfig,
) -> list[dict[str, Any]]:
    def names(ids: Int[np.ndarray, " T"]) -> list[str]:
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
