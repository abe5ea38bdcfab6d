"""What does a grokked model do with new facts? Finetuning of runs that are trained already.

    grokjax quickstart
    grokjax transfer runs/x --config=experiments/transfer.py:small --from=runs/quickstart

Every run of a workdir, from several of its checkpoints, and a control that knows atomic facts
alone, on new facts and a part of the old data, at half the learning rate; asked for compositions of
new facts with old ones that are never trained on. Four sizes:

- `:small`: for the quickstart's runs, 80 new facts, 1,500 steps from saturation and from the end:
  28 runs, under 10 minutes on 2 CPU cores. Expected: new facts are learned; `new then old` and
  `old then new` stay below 0.3 whatever the pretraining, and where a site holds the bridge of old
  queries, it holds that of `old then new` as well.
- `:dose`: the same from the end alone, with 0, 10, 30 and 60 % of the new compositions trained on:
  64 runs, some 15 minutes on 4 CPU cores. Expected: held-out ones follow the dose.
- `:confirmatory`: of docs/results.md, section 10, for the runs of `experiments/confirmatory.py`:
  10,000 steps from saturation, path and end. `--config.transfer.checkpoints=end` has the ends
  alone; 16 runs, natural's and the control's, are some 30 minutes on 2 quiet CPU cores.
- the study's, for accelerators: 2,000 new facts, 40,000 steps, every checkpoint; at the paper's
  size about 3 % of what the pretraining cost for each of them.
"""

import copy

from grokjax.settings import grid

ARGUMENTS = ("small", "dose", "confirmatory")


def get_config(source, size=""):
    config = copy.deepcopy(source)  # model, data, optimiser, batch: as the run had them
    config.name = "transfer"
    config.optimizer.learning_rate = source.optimizer.learning_rate / 2
    # The source's rule for leaving early looks at what was grokked before.
    config.train.update({"num_steps": 40_000, "eval_every": 1000, "stop_at": 0.0, "stop_margin": 0})
    config.checkpoint.update({"every": 10_000, "analysis_steps_per_decade": 2})
    if size:
        config.transfer.update({"num_new_facts": 80, "num_kept": 160, "control_steps": 4000})
        config.transfer.checkpoints = "saturation,end" if size == "small" else "end"
        config.train.update({"num_steps": 1500, "eval_every": 50, "chunk_steps": 50})
        config.checkpoint.every = 500
    if size == "confirmatory":
        config.transfer.checkpoints = "saturation,path,end"
        config.train.update({"num_steps": 10_000, "eval_every": 250, "chunk_steps": 250})
        config.checkpoint.every = 1000
    return config


def sweep(add, size=""):
    for row in grid("transfer.new_share", (0.0, 0.1, 0.3, 0.6) if size == "dose" else ()):
        add(row)
