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

    # The three sources of randomness (docs/protocol.md, section 2; docs/design.md, rule 6).
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
            "identity_bridge": False,  # also train on (e) -> e, each entity (arXiv 2509.24653)
        }
    )

    config.model = ml_collections.ConfigDict(
        {
            "vocab_size": 0,  # 0: the dataset's; an imported model may know one token less
            "kind": "recursive",  # or "decoder", which reads the settings marked with a D
            "hidden_size": 1536,  # D
            "num_layers": 2,  # D
            "H_cycles": 2,
            "L_cycles": 6,
            "gradient_cycles": 1,  # trailing H cycles that carry gradient; 0 means all of them
            "mixer": "mlp",  # "mlp" (across positions) or "attention" (bidirectional)
            "positions": "none",  # "none", "rotary" or "learned"
            "num_heads": 8,  # D
            "expansion": 4.0,
            "mlp_multiple": 256,  # inner widths are rounded up to a multiple of this
            "num_registers": 16,
            "register_size": 1536,  # learned values, at most num_registers * hidden_size
            "tied_head": False,  # the embedding is the output head, as it always is in the decoder
            "halt_max_steps": 1,  # passes that a sequence may take, its state carried over
            "halt_exploration": 0.1,  # share of sequences that may not halt before a random pass
            "num_loops": 1,  # D: 1 is the ordinary transformer, 2 the looped one of Wang et al.
            "dropout": 0.0,  # D
            # D: compute dtype; parameters stay float32 ("float64" raises both).
            "dtype": "bfloat16",
        }
    )

    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",  # or "adam_atan2"
            "learning_rate": 4e-5,
            "warmup_steps": 2000,
            "warmup_start": 1,  # what the first update counts as: 0 gives it no learning rate
            "schedule": "constant",  # after the warm-up; "cosine" falls to 0 at decay_steps
            "decay_steps": 0,
            "weight_decay": 1.0,
            "weight_decay_schedule": "constant",  # or "cosine", as above
            "decay_vectors": True,  # whether biases and norms decay too
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "clip_norm": float("inf"),  # of the whole gradient
            "grokfast_alpha": 0.98,  # memory of the gradient's slow part
            "grokfast_lambda": 0.0,  # its amplification; 0 is off
            "orthograd": False,  # gradient without its part along the weights
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
            # A run may leave early: stop_margin steps after its OOD answer accuracy has reached
            # stop_at in three evaluations running. 0: nobody does.
            "stop_at": 0.0,
            "stop_margin": 0,
            "batch_devices": 1,  # devices that share each run's batch; the others share the runs
        }
    )

    config.evaluate = ml_collections.ConfigDict(
        {
            "batch_size": 1024,  # queries per forward pass
            # Of bridge_found_strict: a stage and a position, or the best on ID compositions.
            "path_stage": "best",
            "path_position": "answer",
            # Depth of the evaluated model; 0 is that of training.
            "H_cycles": 0,
            "L_cycles": 0,
            "num_loops": 0,
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

    # Finetuning on new facts (docs/protocol.md, section 2.5). `grokjax transfer` makes the rows: it
    # fills in whose weights a run starts from, and an empty source means a run that starts anew.
    config.transfer = ml_collections.ConfigDict(
        {
            "source": "",  # workdir
            "run_id": 0,
            "run_hash": "",
            "step": 0,
            "checkpoint": "",  # which of `checkpoints` that step is
            "group": "",  # the source's regime, or a control's name
            # What to finetune: before memorisation, at it, at the path, after grokking, the last.
            "checkpoints": "before,saturation,path,grokked,end",
            "control_atomic": True,  # also a model that was pretrained on atomic facts alone
            "control_steps": 0,  # for which that one is pretrained; 0: as long as the source
            "weights": "ema",  # or "raw"
            "optimizer_state": "fresh",  # or "carried", of a source's last checkpoint
            "folder": "",  # the authors' finetuning data; replaces everything below
            "num_new_facts": 2000,
            "num_kept": 8000,
            "retention": "facts",  # num_kept counts ID facts; or "closure": all that is kept
            "new_share": 0.0,  # of the compositions with new facts, to train on
            "max_probes": 10_000,  # queries of each category
            "seed": 0,  # of the draw of new and kept facts, on top of the data seed
        }
    )

    # How a sweep is cut; 0 suggests what fits the memory.
    config.sweep = ml_collections.ConfigDict({"runs_per_population": 0})

    # Differences between the runs of this population: a tuple of {setting: value}, made by the
    # experiment file's sweep(add). Empty: one run with the settings above.
    config.runs = ()
    return config
