"""Every setting of a run, with its default: the paper's, unless a comment says otherwise."""

from __future__ import annotations

import ml_collections


def default_config() -> ml_collections.ConfigDict:
    """The settings of one run. Experiment files start from these and change what they study.

    Returns:
      A type-safe ConfigDict. Durations are in optimiser steps. Settings named in
      `grokjax.sweep.TRACED` may differ between the runs of a population; the others shape the
      compiled program and are shared by all of its runs.
    """
    config = ml_collections.ConfigDict()
    config.name = "grokjax"

    # The three sources of randomness (protocol section 2; design rule 6).
    config.seeds = ml_collections.ConfigDict({"data": 0, "init": 0, "order": 0})

    config.data = ml_collections.ConfigDict(
        {
            "folder": "",  # a dataset in the authors' JSON format; replaces everything below
            "num_entities": 2000,
            "num_relations": 200,
            "out_degree": 20,
            "ood_fraction": 0.05,
            "iid_test_fraction": 0.005,
            "phi": 18.0,  # training compositions per ID fact; float("inf") takes the whole pool
            "regime": "natural",  # gives hop ratios and k, see grokjax.graph.REGIMES
            # A value here replaces the regime's; a negative one keeps it.
            "hop1_ratio": -1.0,
            "hop1_k": -1,
            "hop2_ratio": -1.0,
            "hop2_k": -1,
            "max_probes": 3000,  # queries of each probe type
        }
    )

    config.model = ml_collections.ConfigDict(
        {
            "kind": "recursive",
            "hidden_size": 1536,
            "num_layers": 2,
            "H_cycles": 2,
            "L_cycles": 6,
            "gradient_cycles": 1,  # trailing H cycles that carry gradient; 0 means all of them
            "mixer": "mlp",  # "mlp" (across positions) or "attention" (bidirectional)
            "positions": "none",  # "none", "rotary" or "learned"
            "num_heads": 8,
            "expansion": 4.0,
            "mlp_multiple": 256,  # inner widths are rounded up to a multiple of this
            "num_registers": 16,
            "register_size": 1536,  # learned values, at most num_registers * hidden_size
            "dtype": "bfloat16",  # compute dtype; parameters stay float32 ("float64" raises both)
        }
    )

    config.optimizer = ml_collections.ConfigDict(
        {
            "learning_rate": 4e-5,
            "warmup_steps": 2000,
            "weight_decay": 1.0,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "register_learning_rate": 1e-4,
            "register_weight_decay": 1.0,
            "ema_rate": 0.999,
        }
    )

    config.train = ml_collections.ConfigDict(
        {
            "num_steps": 1_300_000,
            "batch_size": 512,
            "loss": "stablemax",  # "stablemax" or "softmax"
            "eval_every": 2000,
            "chunk_steps": 100,  # steps per dispatched program; divides eval_every
            "batch_devices": 1,  # devices that share each run's batch; the others share the runs
        }
    )

    config.evaluate = ml_collections.ConfigDict(
        {
            "batch_size": 1024,  # queries per forward pass
            "path_stage": "best",  # of bridge_found_strict: a stage, or the best on ID queries
            "raw_weights": False,  # also report the non-averaged weights, in columns "raw/..."
        }
    )

    config.checkpoint = ml_collections.ConfigDict(
        {
            "every": 20_000,  # full state for resume; a multiple of eval_every
            "keep": 2,
            "analysis_steps_per_decade": 8,  # parameters and EMA on a log grid, never deleted
        }
    )

    # Differences between the runs of this population: a tuple of {setting: value}, made by the
    # experiment file's sweep(add). Empty: one run with the settings above.
    config.runs = ()
    return config
