"""What only the model knows of the settings."""

import pytest
from tiny import tiny_config

from grokjax.base.errors import UserError
from grokjax.training.resolve import check_settings


def test_path_stages_go_with_the_evaluated_depth():
    check_settings(tiny_config(evaluate__path_stage="H2_Commit", evaluate__H_cycles=3))
    check_settings(tiny_config(evaluate__path_stage="S1_H0_Commit", model__halt_max_steps=2))
    check_settings(tiny_config(evaluate__path_stage="Loop1_Layer0", model__kind="decoder",
                         model__num_loops=2))  # fmt: skip
    with pytest.raises(UserError, match="'H1_Commit' is none of best, S0_Init"):
        check_settings(tiny_config(evaluate__path_stage="H1_Commit", model__halt_max_steps=2))


def test_a_place_of_the_path_is_one_of_the_tasks():
    check_settings(tiny_config(evaluate__path_position="relation1"))
    with pytest.raises(UserError, match="'bridge' is no place of composition, which has best"):
        check_settings(tiny_config(evaluate__path_position="bridge"))
    check_settings(tiny_config(data__task="comparison", evaluate__path_position="entity1"))
    with pytest.raises(UserError, match="'head' is no place of comparison"):
        check_settings(tiny_config(data__task="comparison", evaluate__path_position="head"))
