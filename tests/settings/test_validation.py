"""What is wrong with settings, each by itself and among each other."""

import pytest
from ml_collections import ConfigDict
from tiny import tiny_config

from grokjax.base.errors import UserError
from grokjax.settings.validation import validate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__num_heads": 3}, "3 heads do not divide hidden_size 16"),
        ({"model__num_heads": 16, "model__positions": "rotary"}, "even head size"),
        ({"model__mixer": "mlp", "model__positions": "rotary"}, "attention mixer"),
        ({"model__mixer": "conv"}, "'conv' is none of mlp, attention"),
        ({"model__register_size": 5}, "5 values do not fit 0 registers"),
        ({"model__gradient_cycles": 2}, r"2 is outside 0..1"),
        ({"train__chunk_steps": 3}, "does not divide eval_every"),
        ({"train__batch_size": 0}, "must be at least 1"),
        ({"checkpoint__every": 15}, "no multiple of train.eval_every"),
        ({"evaluate__path_position": "best", "model__kind": "decoder"}, "not of a decoder"),
        ({"evaluate__H_cycles": -1}, "H_cycles: -1 must be finite and at least 0"),
        ({"optimizer__learning_rate": float("nan")}, "learning_rate: nan must be finite"),
        ({"optimizer__beta2": 1.0}, "beta2: 1.0 must be at least 0 and below 1"),
        ({"optimizer__schedule": "cosine"}, "decay_steps: 0 is not beyond the warm-up"),
        ({"model__expansion": 0.0}, "expansion: 0.0 must be finite and above 0"),
        ({"model__dropout": 1.0}, "dropout: 1.0 must be at least 0 and below 1"),
        ({"model__kind": "decoder", "model__num_heads": 3}, "3 heads do not divide"),
        ({"seeds__init": -1}, "seeds.init: -1 must be a whole number"),
        ({"checkpoint__analysis_steps_per_decade": 0}, "must be at least 1"),
        ({"data__regime": "neutral"}, "'neutral' is none of natural, both_hop_full"),
        ({"data__out_degree": 0}, "out_degree: 0 must be at least 1"),
        ({"data__ood_fraction": 1.0}, "ood_fraction: 1.0 must be at least 0 and below 1"),
        ({"data__iid_test_fraction": -0.1}, "iid_test_fraction: -0.1 must be at least 0"),
        ({"data__phi": float("nan")}, "phi: nan must be at least 0"),
        ({"data__hop1_ratio": 1.5}, "hop1_ratio: 1.5 must be at most 1"),
        ({"data__hop2_ratio": float("nan")}, "hop2_ratio: nan must be at most 1"),
        ({"data__max_probes": 0}, "max_probes: 0 must be at least 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        validate(tiny_config(**changes))


def test_numbers_of_the_sweep_are_checked_too():
    config = tiny_config()
    config.runs = ({"seeds.init": 0}, {"optimizer.ema_rate": 1.5})
    with pytest.raises(UserError, match=r"ema_rate: 1\.5 must be at least 0 and below 1"):
        validate(config)
    config.runs = ({"optimizer.ema_rate": "slow"},)
    with pytest.raises(UserError, match="ema_rate: 'slow' is not of type float"):
        validate(config)


def test_names_of_a_config_of_another_making_are_checked():
    config = ConfigDict(tiny_config().to_dict())
    config.optimizer.lr = 1.0
    with pytest.raises(
        UserError, match=r"'optimizer\.lr'; did you mean 'optimizer\.learning_rate'"
    ):
        validate(config)
    del config.optimizer["lr"]
    del config.data["phi"]
    with pytest.raises(UserError, match=r"lacks the setting 'data\.phi'"):
        validate(config)


@pytest.mark.parametrize(
    "rows, numbers",
    [
        ([{"seeds.init": 1}, {"seeds.init": 2}, {"seeds.init": 1}], "0 and 2"),
        ([{"seeds.init": 1}, {}, {"seeds.init": 0}], "1 and 2"),  # the default, named or not
        ([{}, {}], "0 and 1"),
        ([{"optimizer.weight_decay": 1}, {"optimizer.weight_decay": 1.0}], "0 and 1"),
    ],
)
def test_one_run_twice_is_no_second_seed(rows, numbers):
    config = tiny_config()
    config.runs = tuple(rows)
    with pytest.raises(UserError, match=f"sweep rows {numbers}: have the same settings"):
        validate(config)
    config.runs = ({"seeds.init": 1}, {"seeds.init": 1, "seeds.order": 1})
    validate(config)
