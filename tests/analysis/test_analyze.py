"""`grokjax analyze` on a trained workdir."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import FINETUNING, tiny_config

import grokjax
from grokjax import analysis
from grokjax.analysis import AnalysisConfig, all_sites, draw_pairs, load_analysis, tables
from grokjax.analysis.store import SUMS, Analysis, part_path
from grokjax.base.errors import UserError
from grokjax.base.names import OOD_ACCURACY, TEST_INFERRED_OOD
from grokjax.cli import main
from grokjax.report.analysed_groups import group_runs
from grokjax.results import train_and_evaluate
from grokjax.settings import grid, product, seeds

FAST = AnalysisConfig(num_pairs=4, null=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two regimes with two seeds each, 40 steps."""
    config = tiny_config()
    regimes = grid("data.regime", ("natural", "both_hop_full"))
    config.runs = tuple(product(regimes, seeds(2)))
    return train_and_evaluate(config, tmp_path_factory.mktemp("trained") / "w")


def run(*arguments):
    return main(["analyze", *map(str, arguments)])


def test_the_command_writes_arrays_tables_and_figures(trained, tmp_path, capsys, unpainted):
    out = tmp_path / "a"
    options = (f"--workdir={trained.workdir}", f"--out={out}", "--pairs=4", "--steps=20,40")
    assert run(*options) == 0
    text = capsys.readouterr().out
    assert "analysed 8/8" in text and "Path identity by regime at step 40" in text
    figures = {p.stem for p in (out / "figures").glob("*.png")}
    assert {"lens_test_inferred_ood", "attribution", "order_of_events"} <= figures
    assert all((out / "figures" / f"{name}.csv").stat().st_size for name in figures)
    runs = pd.read_csv(out / "patching_runs.csv")
    assert set(runs.run) == {0, 1, 2, 3} and set(runs.step) == {20, 40}
    assert len(runs) == 4 * 2 * 6 * 2 * len(all_sites(trained.model))
    assert set(pd.read_csv(out / "patching.csv").group_of_runs) <= {"natural", "both_hop_full"}
    identity = pd.read_csv(out / "path_identity.csv")
    assert set(identity.paths) and {"p_value", "margin", "verdict"} <= set(identity)

    # Again: nothing is measured; one lost part is.
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/step*.nc")}
    assert len(before) == 16
    lost = part_path(out, "lens", 40, 2)
    lost.unlink()
    config = AnalysisConfig(num_pairs=4)
    analysis.analyze(trained.workdir, steps=[20, 40], config=config, out=out)
    assert "analysed 1/1" in capsys.readouterr().out
    again = {p: p.stat().st_mtime_ns for p in out.glob("*/step*.nc")}
    changed = {p for p in before if before[p] != again[p]}
    assert changed == {lost, part_path(out, "patching", 40, 2)}


def test_labelled_arrays_are_those_of_single_calls(trained, tmp_path):
    """All runs at once, through files, or one by one in a notebook: the same numbers."""
    found = analysis.analyze(trained.workdir, config=FAST, out=tmp_path / "a")
    assert found.patching.run.values.tolist() == [0, 1, 2, 3]
    assert found.lens.step.values.tolist() == [40]
    assert found.lens.regime.values.tolist() == ["natural"] * 2 + ["both_hop_full"] * 2
    dataset, weights = trained.dataset(3), trained.weights(3)
    lens = analysis.logit_lens(trained.model, weights, dataset.probes)
    own = found.lens.sel(run=3).isel(step=0)
    for kind in dataset.probes.names:
        x, y = own.top1.sel(type=kind), lens.top1.sel(type=kind)
        np.testing.assert_allclose(x, y, atol=0.02)  # a near tie may fall either way
        np.testing.assert_allclose(
            own.log_probability.sel(type=kind), lens.log_probability.sel(type=kind), atol=1e-3
        )
    pairs = draw_pairs(dataset, "relation1", "id", 4)
    effects = analysis.patch_effects(trained.model, weights, pairs)
    stored = found.patching.sel(run=3).isel(step=0)
    cell = np.flatnonzero((stored.slot == "relation1") & (stored.group == "id"))[0]
    n = len(pairs.clean)
    np.testing.assert_allclose(
        stored.logit_difference[cell, ..., :n], effects.logit_difference[0], atol=1e-3
    )


def test_a_flipped_bit_is_found_and_what_was_not_sealed_is_measured_again(trained, tmp_path):
    out = tmp_path / "a"
    found = analysis.analyze(trained.workdir, config=FAST, out=out)
    path = part_path(out, "lens", 40, 0)
    whole = path.read_bytes()
    for at in (len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"run00000.nc: damaged; remove it"):
            analysis.load_analysis(trained, out)
    path.write_bytes(whole)

    sums = (out / SUMS).read_text().splitlines(keepends=True)
    (out / SUMS).write_text("".join(sums[:-1]) + sums[-1][:20])  # a kill, in the last line
    again = analysis.analyze(trained.workdir, config=FAST, out=out)
    assert again.lens.run.values.tolist() == [0, 1, 2, 3]
    rest = [0, 1, 2]
    xr.testing.assert_identical(again.lens.sel(run=rest), found.lens.sel(run=rest))  # not run 3's
    assert len((out / SUMS).read_text().splitlines()) == len(sums) + 2  # of one run, both parts


def test_a_folder_of_before_there_were_hashes_is_read_and_grows(trained, tmp_path):
    out = tmp_path / "a"
    analysis.analyze(trained.workdir, steps=[20], config=FAST, out=out)
    (out / SUMS).unlink()
    assert analysis.load_analysis(trained, out).lens.step.values.tolist() == [20]
    grown = analysis.analyze(trained.workdir, steps=[40], config=FAST, out=out)
    assert grown.lens.step.values.tolist() == [20, 40]


def test_raw_and_averaged_weights_differ(trained, tmp_path):
    ema, raw = (
        analysis.analyze(
            trained.workdir, runs=[0], out=tmp_path / name,
            config=AnalysisConfig(num_pairs=4, null=False, weights=name),
        )
        for name in ("ema", "raw")
    )  # fmt: skip
    assert np.abs(ema.patching.clean - raw.patching.clean).max() > 1e-3
    expected = trained.parameters(0)["params"]["embed"]
    np.testing.assert_array_equal(trained.weights(0, ema=False)[0]["embed"], expected)


def test_plots_of_labelled_arrays(trained, tmp_path):
    dataset, weights = trained.dataset(2), trained.weights(2)
    lens = analysis.logit_lens(trained.model, weights, dataset.probes)
    picture = lens.grokjax.plot()
    assert picture._repr_png_().startswith(b"\x89PNG") and set(picture.data.token) == {
        "bridge",
        "target",
    }
    pairs = [draw_pairs(dataset, slot, "id", 4) for slot in ("head", "relation2")]
    effects = analysis.patch_effects(trained.model, weights, pairs)
    # An untrained network's effects may be undefined: the picture shows that, too.
    saved = effects.grokjax.plot(direction="noising").save(tmp_path / "p.png")
    assert saved.stat().st_size and saved.with_suffix(".csv").exists()
    assert set(pd.read_csv(saved.with_suffix(".csv")).direction) == {"noising"}
    with pytest.raises(UserError, match="neither"):
        xr.Dataset({"x": 1}).grokjax.plot()


@pytest.mark.parametrize(
    "changes",
    [
        {"model__kind": "decoder", "model__num_loops": 2},
        {"model__halt_max_steps": 2, "model__mixer": "mlp"},
    ],
    ids=["decoder", "halting"],
)
def test_every_model_and_one_run_alone(tmp_path, changes, capsys):
    config = tiny_config(train__num_steps=20, **changes)
    results = train_and_evaluate(config, tmp_path / "w")
    assert run(f"--workdir={results.workdir}", "--pairs=4", "--no-null") == 0
    assert "only one group" in capsys.readouterr().out
    found = load_analysis(results)
    assert set(found.patching.component.values) >= {"z_H", "mlp", "mixer"}
    assert ("heads" in found.patching.component) == (config.model.kind == "decoder")
    assert found.lens.stage.values.tolist() == list(results.model.evaluation_stages)


def test_grokked_is_what_events_say(trained):
    """Three evaluations running by the step that is analysed, and not one high reading there."""
    accuracy = {0: (1, 1, 1, 1), 1: (0, 0, 1, 1), 2: (0, 1, 1, 1), 3: (0, 0, 0, 0)}
    rows = [
        {"run_id": run, "step": step, OOD_ACCURACY: float(value)}
        for run, values in accuracy.items()
        for step, value in zip((10, 20, 30, 40), values, strict=True)
    ]
    results = dataclasses.replace(trained, curves=pd.DataFrame(rows))

    def groups(step):
        answers = (("run", "step", "type"), np.ones((4, 1, 1)))
        coordinates = {"run": range(4), "step": [step], "type": [TEST_INFERRED_OOD]}
        lens = xr.Dataset({"answer_accuracy": answers}, coordinates)
        return group_runs(results, Analysis(lens, lens, {}), "grokked")

    no, yes = "not grokked", "grokked"
    assert groups(40) == [yes, no, yes, no] and groups(10) == [yes, no, no, no]


@pytest.mark.slow
def test_some_runs_at_some_steps_and_every_way_to_group(trained, tmp_path, capsys):
    out = tmp_path / "a"
    options = (f"--workdir={trained.workdir}", f"--out={out}", "--pairs=4", "--no-null")
    analysis.analyze(trained.workdir, runs=[0, 1, 2], config=FAST, out=out)
    assert run(*options, "--runs=1,3", "--steps=20") == 0
    found = load_analysis(trained, out)
    assert found.lens.run.values.tolist() == [0, 1, 2, 3]
    assert np.isnan(found.lens.answer_accuracy.sel(run=3, step=40)).all()
    events = pd.read_csv(out / "events.csv")
    assert events[events.run == 0].step_before.isna().all()  # analysed once: nothing before
    for column in [*trained.runs.columns, "grokked"]:
        groups = group_runs(trained, found, column)
        assert len(groups) == 4 and len(tables.rates_by_group(found.lens, groups))
    assert group_runs(trained, found, "grokked")[3] == "unknown"
    picture = found.lens.sel(run=1, step=20).grokjax.plot(type="train_inferred")
    assert set(picture.data.step) == {20} and set(picture.data.group_of_runs) == {"natural"}
    found.patching.sel(run=1).grokjax.plot(group="id", direction="noising", blocks=True)
    with pytest.raises(UserError, match="'up' is none of denoising, noising"):
        found.patching.grokjax.plot(direction="up")


def test_an_analysis_belongs_to_its_population(trained, tmp_path, capsys):
    config = tiny_config(train__num_steps=20)
    config.runs = ({"data.regime": "both_hop_full"},)
    other = train_and_evaluate(config, tmp_path / "w")
    analysis.analyze(trained.workdir, runs=[0], config=FAST, out=tmp_path / "a")
    options = (f"--workdir={other.workdir}", f"--out={tmp_path / 'a'}", "--pairs=4", "--no-null")
    assert run(*options) == 2
    assert "was made with population" in capsys.readouterr().err


def test_without_facts_nothing_is_left_behind(tmp_path, capsys):
    config = tiny_config(train__num_steps=20, data__folder=str(FINETUNING))
    results = train_and_evaluate(config, tmp_path / "w")
    assert run(f"--workdir={results.workdir}") == 2
    assert "logit_lens needs none" in capsys.readouterr().err
    assert not (results.workdir / "analysis").exists()
    lens = analysis.logit_lens(results.model, results.weights(0), results.dataset(0).probes)
    assert np.isfinite(lens.bridge_found.sel(type="test_inferred_new"))


def test_mistakes_are_one_line(trained, tmp_path, capsys):
    options = (f"--workdir={trained.workdir}", f"--out={tmp_path / 'a'}")
    for bad, expected in (
        ("--steps=41", "not stored; there are 0"),
        ("--steps=x", "give numbers"),
        ("--runs=9", "they are 0 to 3"),
        ("--group-by=colour", "no such column"),
        ("--pairs=0", "at least 1"),
        ("--margin=nan", "above 0"),
    ):
        assert run(*options, bad) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    assert not (tmp_path / "a").exists()
    assert run(f"--workdir={tmp_path / 'nothing'}") == 2
    analysis.analyze(trained.workdir, runs=[0], config=FAST, out=tmp_path / "a")
    assert run(*options, "--pairs=5", "--no-null") == 2
    assert "num_pairs 4, not 5" in capsys.readouterr().err
    part = part_path(tmp_path / "a", "patching", 40, 0)
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged; remove it"):
        load_analysis(grokjax.load(trained.workdir), tmp_path / "a")
