"""x"""

from ml_collections import ConfigDict

ARGUMENTS = ("small",)


def get_config(source, size=""):
    config = ConfigDict(source.to_dict())
    config.name = "transfer"
    config.optimizer.learning_rate = source.optimizer.learning_rate / 2
    config.train.update({"num_steps": 40_000, "eval_every": 1000})
    if size == "small":
        config.transfer.update({"num_new_facts": 80, "num_kept": 160})
        config.transfer.update({"checkpoints": "saturation,grokked,end", "control_steps": 4000})
        config.train.update({"num_steps": 1500, "eval_every": 50, "chunk_steps": 50})
        config.checkpoint.update({"every": 500, "analysis_steps_per_decade": 1})
    return config
