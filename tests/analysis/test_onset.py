"""What comes when."""

import math

import numpy as np
import xarray as xr

from grokjax.analysis.onset import (
    causal_score,
    causal_steps,
    first_steps,
    hidden_sites,
    order_of_events,
    readable_steps,
)

STEPS = [0, 100, 200, 400]


def effects(values):
    """values: [slot, site, step] of one run, denoising, ID; noising and OOD are all 0."""
    data = np.zeros((1, 4, 6, 2, 3))
    data[0, :, :3, 0] = np.moveaxis(np.array(values, float), -1, 0)
    return xr.Dataset(
        {
            "effect": (("run", "step", "cell", "direction", "site"), data),
            "num_pairs": (("run", "step", "cell"), np.full((1, 4, 6), 9.0)),
        },
        {
            "run": [7], "regime": ("run", ["natural"]), "step": STEPS,
            "slot": ("cell", ["head", "relation1", "relation2"] * 2),
            "group": ("cell", ["id"] * 3 + ["ood"] * 3),
            "direction": ["denoising", "noising"],
            "component": ("site", ["z_H", "z_L", "mlp"]), "place": ("site", ["A", "A", "A"]),
            "position": ("site", ["answer"] * 3), "head": ("site", [-1] * 3),
        },
    )  # fmt: skip


PLACE = ("bridge", "apart", "z_H", "A", "answer")
NEVER = [0.0, 0.0, 0.0, 0.0]
BRIDGE = [
    [NEVER, [0.0, 0.6, 0.9, 0.9], [1.0] * 4],  # head
    [NEVER, [0.0, 0.2, 0.8, 0.7], [1.0] * 4],  # relation 1
    [NEVER, [0.0, 0.1, 0.1, 0.1], NEVER],  # relation 2
]


def test_first_steps_need_two_checkpoints_or_the_last():
    runs = [[0.0, 0.6, 0.0, 0.6], [0.6, 0.6, 0.0, 0.6], [0.0, 0.0, 0.0, 0.6], [0.0] * 4]
    everywhere = np.ones((4, 4), bool)
    first, before = first_steps(np.array(STEPS), np.array(runs), everywhere, 0.5)
    assert first.tolist() == [400, 0, 400, math.inf]
    np.testing.assert_array_equal(before, [200, math.nan, 200, math.nan])
    nothing = first_steps(np.array(STEPS), np.full((1, 4), np.nan), everywhere[:1], 0.5)
    assert nothing[0].tolist() == [math.inf]


def test_a_checkpoint_that_was_not_analysed_says_nothing():
    """Some runs at some steps, as several calls leave them."""
    values = np.array([[0.0, np.nan, 0.6, 0.7], [np.nan, 0.6, np.nan, 0.6], [np.nan] * 4])
    first, before = first_steps(np.array(STEPS), values, np.isfinite(values), 0.5)
    assert first.tolist() == [200, 100, math.inf]
    np.testing.assert_array_equal(before, [0, math.nan, math.nan])


def test_a_bridge_is_what_head_and_relation_1_decide():
    """One site's state among the streams; what blocks compute does not count."""
    score = causal_score(effects(BRIDGE), "id")
    np.testing.assert_allclose(score, [[0.0, 0.1, 0.7, 0.6]])
    np.testing.assert_allclose(causal_score(effects(BRIDGE), "ood"), 0.0)


def test_the_best_of_all_sites_is_told():
    """z_L holds the bridge at the end; nothing is said where no effect is defined."""
    patching = effects(BRIDGE)
    patching.effect[0, :, 3:] = np.nan
    table = hidden_sites(patching, ["natural"]).set_index("group")
    assert table.score["id"] == 0.7 - 0.1 and table.num_sites["id"] == 2
    assert table.loc["id", ["component", "place", "position"]].tolist() == ["z_L", "A", "answer"]
    assert np.isnan(table.score["ood"]) and table.component["ood"] == ""


def test_steps_by_site_and_order_of_events():
    patching = effects(BRIDGE)
    first = causal_steps(patching)
    chosen = first[(first.group == "id") & (first.direction == "denoising")]
    table = chosen.pivot(index="component", columns="slot", values="causal_step")
    assert table.loc["z_L"].tolist() == [100, 200, math.inf]
    assert table.loc["z_H"].tolist() == [math.inf] * 3
    kinds = ["id_atomic", "test_inferred_iid", "test_inferred_ood"]
    top1 = np.zeros((1, 4, 3, 1, 1, 1, 1, 1))
    top1[0, 2:, 1] = 0.8
    rates = ("run", "step", "type")
    strict = np.array([[[0, 0.1, 0], [0, 0.6, 0], [0, 0.7, 0], [0, 1, 0.6]]])
    answers = np.array([[[1, 0.1, 0], [1, 0.2, 0], [1, 0.4, 0], [1, 1, 0.1]]])
    place = ("token", "subset", "stream", "stage", "position")
    lens = xr.Dataset(
        {
            "top1": ((*rates, *place), top1),
            "bridge_found_strict": (rates, strict),
            "answer_accuracy": (rates, answers),
            "num_queries": ((*rates, "subset", "token"), np.full((1, 4, 3, 1, 1), 9.0)),
        },
        {"run": [7], "regime": ("run", ["natural"]), "step": STEPS, "type": kinds}
        | {name: [value] for name, value in zip(place, PLACE, strict=True)},
    )
    assert readable_steps(lens).readable_step.tolist() == [200, math.inf]
    events = order_of_events(patching, lens).set_index(["group", "event"])
    assert events.loc[("id", "path readable"), ["step", "step_before"]].tolist() == [100, 0]
    assert events.loc[("id", "path causal"), ["step", "step_before"]].tolist() == [200, 100]
    assert events.loc[("id", "answered"), ["step", "step_before"]].tolist() == [400, 200]
    assert events.loc[("ood", "path readable"), "step"] == 400
    gap = lens.copy(deep=True)
    gap["num_queries"][0, 1:3] = np.nan  # not analysed at 100 and 200
    events = order_of_events(patching, gap).set_index(["group", "event"])
    assert events.loc[("id", "path readable"), ["step", "step_before"]].tolist() == [400, 0]
    events = order_of_events(patching, lens).set_index(["group", "event"])
    assert events.loc[("ood", "answered"), "step"] == math.inf
