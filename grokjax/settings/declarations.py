"""Every setting, declared once: default, type, what it may be, whom it concerns, a line of help.

The config with its defaults, the checks of values, the split of a sweep into populations, the
identity of a run and docs/settings.md are made from this table. A new setting is a line here and
the place that uses it.
"""

from __future__ import annotations

import math

from grokjax.base.names import BEST, CHECKPOINTS, COMPARED, DECODER, RECURSIVE
from grokjax.settings.ranges import (
    ABOVE_0,
    AT_MOST_1,
    BELOW_1,
    COUNT,
    FINITE,
    FROM_0,
    FROM_1,
    MODULUS,
    SEED,
    SHARE,
    SIZE,
    UP_TO_1000,
    WHOLE,
)
from grokjax.settings.setting import Setting, apart, static, traced

SECTIONS: dict[str, dict[str, Setting]] = {
    "seeds": {
        "data": traced(0, "draws graph, splits and probes", SEED, also="data.seed data_seed"),
        "init": traced(0, "draws the first weights", SEED, also="seed model.seed init_seed"),
        "order": traced(
            0, "draws batches, dropout and exploration", SEED, also="train.seed shuffle order_seed"
        ),
    },
    "data": {
        "folder": static(
            "",
            "a dataset in the authors' JSON format; replaces everything else of this section",
            also="data.path data.dir dataset",
        ),
        "task": static(
            "composition",
            "what is learned; each has its own settings of this section (docs/tasks.md)",
            ("composition", "modular", "comparison"),
            added=True,
            own_file=True,
            also="dataset.name problem",
        ),
        "num_entities": static(2000, "E, entities of the graph", COUNT, also="entities num_nodes"),
        "num_relations": static(200, "kinds of facts of the graph", COUNT, also="relations"),
        "out_degree": traced(20, "facts of each entity", COUNT, also="degree num_facts"),
        "ood_fraction": traced(
            0.05, "of all facts, never composed in training", BELOW_1, also="ood"
        ),
        "iid_test_fraction": traced(
            0.005, "of the ID compositions, held out", BELOW_1, also="test_fraction test_size"
        ),
        "phi": traced(
            18.0,
            "training compositions for each ID fact; inf takes the whole pool",
            FROM_0,
            also="ratio data_ratio inferred_ratio",
        ),
        "regime": traced(
            "natural",
            "which OOD facts training composes: gives the four values below",
            ("natural", "both_hop_full", "both_hop_half", "first_hop_full", "second_hop_full"),
            also="augmentation",
        ),
        "hop1_ratio": traced(
            -1.0, "share of the OOD facts composed as first hop; negative: the regime's", AT_MOST_1
        ),
        "hop1_k": traced(
            -1, "compositions for each fact of hop1_ratio; negative: the regime's", WHOLE
        ),
        "hop2_ratio": traced(
            -1.0, "share of the OOD facts composed as second hop; negative: the regime's", AT_MOST_1
        ),
        "hop2_k": traced(
            -1, "compositions for each fact of hop2_ratio; negative: the regime's", WHOLE
        ),
        "modulus": static(97, "p, of modular arithmetic", MODULUS, added=True, also="prime p"),
        "operation": traced(
            "add",
            "of modular arithmetic; quadratic: x^2 + xy + y^2",
            ("add", "subtract", "multiply", "divide", "quadratic"),
            added=True,
        ),
        "train_share": traced(0.5, "of modular equations, trained on", SHARE, added=True),
        "num_attributes": static(20, "of each compared entity", COUNT, added=True),
        "num_values": static(20, "that a compared attribute may have", COUNT, added=True),
        "max_probes": static(3000, "queries of each probe type", COUNT),
        "identity_bridge": traced(False, "also trains on (e) -> e, each entity (arXiv 2509.24653)"),
    },
    "model": {
        "vocab_size": static(
            0, "0: the dataset's; an imported model may know one token less", FROM_0
        ),
        "kind": static(
            RECURSIVE,
            "the decoder reads hidden_size, num_layers, num_heads, num_loops, dropout and dtype",
            (RECURSIVE, DECODER),
            own_file=True,
            whole_file=True,
            also="model.name model.type arch architecture",
        ),
        "hidden_size": static(
            1536, "D, width of the state", COUNT, also="width d_model dim hidden_dim n_embd"
        ),
        "num_layers": static(2, "blocks in a stack", COUNT, also="layers depth n_layer"),
        "H_cycles": static(2, "updates of the slow state", COUNT, also="cycles"),
        "L_cycles": static(6, "updates of the fast state in each H cycle", COUNT),
        "gradient_cycles": static(1, "trailing H cycles that carry gradient; 0: all of them"),
        "mixer": static(
            "mlp",
            "how positions mix; attention is bidirectional",
            ("mlp", "attention"),
            also="attention",
        ),
        "positions": static(
            "none",
            "how attention knows positions",
            ("none", "rotary", "learned"),
            also="pos_encodings rope rotary",
        ),
        "num_heads": static(8, "of attention; divides hidden_size", COUNT, also="heads n_head"),
        "expansion": static(4.0, "width of the gated MLP", SIZE, also="mlp_ratio"),
        "mlp_multiple": static(256, "inner widths are rounded up to a multiple of it", COUNT),
        "num_registers": static(16, "positions before the query", also="registers"),
        "register_size": static(1536, "learned values, at most num_registers * hidden_size"),
        "tied_head": static(
            False,
            "the output head is the embedding, as it always is in the decoder",
            also="tie_embeddings tied tie_word_embeddings",
        ),
        "halt_max_steps": static(
            1, "passes that a sequence may take, its state carried over", COUNT
        ),
        "halt_exploration": static(
            0.1, "share of sequences that may not halt before a random pass", SHARE
        ),
        "num_loops": static(
            1,
            "of the decoder: 1 is the ordinary transformer, 2 the looped one of Wang et al.",
            COUNT,
            also="loops",
        ),
        "dropout": static(0.0, "of the decoder", BELOW_1, also="dropout_rate"),
        "dtype": static(
            "bfloat16",
            "of the computation; parameters are float32, or float64 with it",
            ("float32", "bfloat16", "float64"),
            also="precision",
        ),
        "matmul_precision": static(
            "highest",
            "of float32 products; default: one bfloat16 pass on TPU, TF32 on GPU, for speed",
            ("highest", "high", "default"),
            added=True,
            also="matmul precision tf32 allow_tf32",
        ),
        "remat": apart(
            "none",
            "blocks: the backward pass computes the inside of blocks anew, for less memory",
            ("none", "blocks"),
            added=True,
            also="checkpointing rematerialise gradient_checkpointing",
        ),
    },
    "optimizer": {
        "name": static(
            "adamw",
            "how the gradient's moments become a step",
            ("adamw", "adam_atan2"),
            own_file=True,
            also="optim kind optimizer.type",
        ),
        "learning_rate": traced(4e-5, "after the warm-up", FINITE, also="lr lrate rate max_lr"),
        "warmup_steps": traced(
            2000, "updates until the full rate", FINITE, also="warmup lr_warmup_steps"
        ),
        "warmup_start": traced(
            1, "what the first update counts as; 0 gives it no learning rate", FINITE
        ),
        "schedule": static(
            "constant",
            "of the rate after the warm-up; cosine falls to 0 at decay_steps",
            ("constant", "cosine"),
            own_file=True,
            also="lr_schedule scheduler",
        ),
        "decay_steps": traced(0, "the step at which a cosine ends", FINITE),
        "weight_decay": traced(1.0, "decoupled, in units of the rate", FINITE, also="wd decay l2"),
        "weight_decay_schedule": static(
            "constant",
            "a factor of the weight decay, as schedule is of the rate",
            ("constant", "cosine"),
            own_file=True,
            also="wd_schedule",
        ),
        "decay_vectors": traced(True, "whether biases and norms decay too"),
        "beta1": traced(0.9, "memory of the gradient's mean", BELOW_1, also="b1 betas momentum"),
        "beta2": traced(0.95, "memory of the gradient's square", BELOW_1, also="b2"),
        "eps": traced(1e-8, "of AdamW", FINITE, also="epsilon adam_eps"),
        "clip_norm": traced(
            math.inf,
            "most that the whole gradient's norm may be",
            ABOVE_0,
            also="clip grad_clip max_grad_norm gradient_clip",
        ),
        "grokfast_alpha": traced(0.98, "memory of the gradient's slow part", BELOW_1),
        "grokfast_lambda": traced(
            0.0, "amplification of the slow part; 0 is off", FINITE, also="grokfast"
        ),
        "orthograd": traced(False, "takes the gradient without its part along the weights"),
        "register_learning_rate": traced(1e-4, "of the registers", FINITE),
        "register_weight_decay": traced(1.0, "of the registers", FINITE),
        "ema_rate": traced(
            0.999,
            "of the averaged weights, which are the ones evaluated",
            BELOW_1,
            also="ema ema_decay",
        ),
    },
    "train": {
        "num_steps": apart(
            1_300_000,
            "updates; the one setting that may grow in a workdir",
            COUNT,
            also="steps epochs num_epochs max_steps total_steps iterations",
        ),
        "batch_size": static(512, "queries of one update", COUNT, also="batch bs"),
        "loss": static(
            "stablemax", "over the vocabulary", ("stablemax", "softmax"), also="loss_fn loss_type"
        ),
        "eval_every": static(
            2000, "steps between evaluations", COUNT, also="eval_interval eval_steps"
        ),
        "chunk_steps": static(
            100, "steps of one dispatched program; divides eval_every", COUNT, also="chunk"
        ),
        "stop_at": static(
            0.0,
            "a run leaves once its OOD accuracy has been this three evaluations running; 0: none",
            SHARE,
            also="early_stopping stop",
        ),
        "stop_margin": static(
            0, "steps that a run trains on after stop_at; a multiple of eval_every", FROM_0
        ),
        "batch_devices": static(
            1,
            "devices that share each run's batch; the others share the runs",
            COUNT,
            also="devices num_devices",
        ),
        "mirror": apart(
            "",
            "wandb: curves go to Weights & Biases as well; needs grokjax[wandb]",
            ("", "wandb"),
            added=True,
            also="wandb use_wandb",
        ),
    },
    "evaluate": {
        "batch_size": static(1024, "queries of one forward pass", COUNT, also="batch"),
        "path_stage": static(
            BEST, "of bridge_found_strict: a stage's name, or the best on ID compositions"
        ),
        "path_position": static(
            "answer",
            "of bridge_found_strict: a position of the task, or the best; of a decoder, the answer",
            added=True,
        ),
        "H_cycles": static(0, "of the evaluated model; 0: as in training", FINITE),
        "L_cycles": static(0, "of the evaluated model; 0: as in training", FINITE),
        "num_loops": static(0, "of the evaluated model; 0: as in training", FINITE),
        "metrics": static(
            "",
            "more columns of curves.csv, divided by commas",
            ("", "answer_log_probability", "answer_rank"),
            added=True,
            own_file=True,
        ),
        "raw_weights": static(
            False, "also reports the weights that are not averaged, in columns raw/..."
        ),
    },
    "checkpoint": {
        "every": static(
            20_000,
            "steps between full states, to resume from; a multiple of eval_every",
            COUNT,
            also="save_every checkpoint_every checkpoint.interval save_steps",
        ),
        "keep": static(2, "full states to keep, the newest", COUNT, also="max_to_keep"),
        "analysis_steps_per_decade": static(
            8, "weights and average on a log grid of steps, never deleted", UP_TO_1000
        ),
    },
    # `grokjax transfer` makes the rows: it fills in whose weights a run starts from. Without a
    # source a run starts anew, and none of these is part of it.
    "transfer": {
        "source": traced("", "filled in: the workdir that the weights are from", identity=False),
        "run_id": traced(0, "filled in: whose weights", FROM_0, identity=False),
        "run_hash": traced("", "filled in: the identity of that run"),
        "step": traced(0, "filled in: of the weights", FROM_0),
        "checkpoint": traced("", "filled in: which of `checkpoints` that step is"),
        "group": traced("", "filled in: the source's regime, or a control's name"),
        "checkpoints": traced(
            ",".join(CHECKPOINTS),
            "what to finetune: the last before memorisation, at it, at the path, at grokking, last",
            identity=False,
        ),
        "control_atomic": traced(
            True, "also a model that was pretrained on atomic facts alone", identity=False
        ),
        "control_steps": traced(
            0,
            "for which the control is pretrained; 0: as long as the source",
            FROM_0,
            identity=False,
        ),
        "weights": traced("ema", "that finetuning starts from", ("ema", "raw")),
        "optimizer_state": traced(
            "fresh", "or carried over, of a source's last checkpoint", ("fresh", "carried")
        ),
        "folder": traced(
            "", "the authors' finetuning data; replaces everything below", also="finetuning"
        ),
        "num_new_facts": traced(2000, "new facts to learn", FROM_1, also="new_facts"),
        "num_kept": traced(8000, "old items in the training set", FROM_0),
        "retention": traced(
            "facts", "num_kept counts ID facts; or closure: all that is kept", ("facts", "closure")
        ),
        "new_share": traced(
            0.0, "of the compositions with new facts, to train on", BELOW_1, also="dose"
        ),
        "max_probes": traced(10_000, "queries of each category", FROM_1),
        "seed": traced(0, "draws new and kept facts, on top of the data seed", FROM_0),
    },
    "report": {
        "family": apart(
            COMPARED[0],
            "of which Holm's correction takes the p-values together; empty: all that is compared",
            ("", *COMPARED),
            added=True,
            also="holm multiple_testing correction alpha_family",
        ),
    },
    "sweep": {
        "runs_per_population": apart(
            0, "how a sweep is cut; 0 suggests what fits the memory", FINITE
        ),
        "target": apart(
            "",
            "the machine whose memory that is: h200, h100:8, v5e:4x4; empty: the one that plans",
            added=True,
            also="accelerator machine",
        ),
    },
}

SETTINGS: dict[str, Setting] = {"name": apart("grokjax", "of the experiment")} | {
    f"{section}.{name}": setting
    for section, settings in SECTIONS.items()
    for name, setting in settings.items()
}
TRACED = frozenset(name for name, setting in SETTINGS.items() if setting.traced)
SEEDS = tuple(f"seeds.{name}" for name in SECTIONS["seeds"])
