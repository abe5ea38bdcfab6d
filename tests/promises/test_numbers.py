"""Every number in README and docs/results.md is that of a committed table."""

import re

import numbers_of_pages as numbers
import pytest
from tiny import ROOT

from grokjax.base.names import CATEGORIES

# Sentences on the tables below; and of machines, told with the command that measured.
_APART = ("## 1. What reproduces", "## 10. The confirmatory study: its plan")


@pytest.mark.parametrize("page", numbers.PAGES)
def test_numbers_are_the_tables(page):
    text = (ROOT / page).read_text()
    assert numbers.BLOCK.search(text)
    for _, name, written, _ in numbers.BLOCK.findall(text):
        assert written == numbers.MAKERS[name](), (
            f"{page}, {name}: python tests/support/numbers_of_pages.py"
        )


def test_each_is_shown_somewhere():
    shown = [
        m[1] for page in numbers.PAGES for m in numbers.BLOCK.findall((ROOT / page).read_text())
    ]
    assert sorted(shown) == sorted(numbers.MAKERS)


def test_no_table_of_measurements_stands_outside():
    text = (ROOT / "docs" / "results.md").read_text()
    readme = numbers.BLOCK.sub("", (ROOT / "README.md").read_text())
    for heading in _APART:
        start = text.index(heading)
        end = text.find("\n## ", start + 1)
        text = text[:start] + (text[end:] if end > 0 else "")
    left = numbers.BLOCK.sub("", text)
    rows = [line for line in (left + readme).splitlines() if line.startswith("|")]
    measured = [row for row in rows if re.search(r"\d\.\d", row)]
    assert not measured, measured


def test_sentences_say_what_the_tables_do():
    """Of what stands between the tables, what a committed one can tell."""
    text = (ROOT / "docs" / "results.md").read_text()
    own = numbers.table("quickstart", "patching_id_denoising")
    own = own[(own.slot == own.position) & own.slot.isin(["head", "relation1"])]
    own = own[(own.component == "z_L") & (own.place == "H0_L0_Thinking")]
    spans = [f"{x.min():.2f} to {x.max():.2f}" for x in (own.effect, own.null_effect)]
    assert f"at their own positions ({spans[0]}; a random donor has {spans[1]})" in text
    costs = numbers.small_costs().splitlines()
    ratio = float(re.search(r"both_hop_full.*at most ([\d.]+)", costs[-1])[1])
    assert ratio <= 0.1 and "natural grokking costs at least ten times what both_hop_full" in text
    trials = numbers.table("statistics", "error_rates").trials
    assert f"Groups of runs with known truth, {trials.max()} simulated experiments" in text


def test_the_confirmatory_sentences_say_what_the_tables_do():
    text = (ROOT / "docs" / "results.md").read_text()
    runs, paths = numbers.table("confirmatory", "outcomes"), numbers.table("confirmatory", "paths")
    runs, both = (runs[runs.group == f"{r}, phi inf"] for r in ("natural", "both_hop_full"))
    assert ((runs["path_0.5"].notna()) == (runs["order_0.5"] == "path first")).all()
    ends = paths[(paths["first"] == "saturation") & (paths.second == "end")]
    ends = ends[ends.reading == "denoising"].set_index("seeds.data").largest_difference
    without = runs[runs["path_0.5"].isna()]["seeds.data"]
    assert (runs.final_ood_accuracy[without.index].round(1) == 0.1).all()
    least, rest = ends[without], ends.drop(without)
    said = f"{' and '.join(f'{x:.2f}' for x in least)} against {rest.min():.2f} to {rest.max():.2f}"
    assert f"(seeds {' and '.join(map(str, without))}) change least by denoising, {said}" in text

    latest, first = both["answer_0.5"].max(), runs["answer_0.5"].min()
    assert f"(8 of 8 seeds by {latest:,.0f}, where natural's first is at {first:,.0f})" in text
    assert (both.final_iid_accuracy == both.final_ood_accuracy).all()
    outcomes = numbers.table("confirmatory", "outcomes").groupby("group")
    as_many = outcomes.get_group("both_hop_full, phi 4.88")["answer_0.5"].max()
    assert f"on as many items as natural has (by {as_many:,.0f})" in text
    hop2 = outcomes.get_group("second_hop_full, phi inf")
    orders = hop2["order_0.5"].value_counts().to_dict()
    assert orders == {"path first": 5, "undecided": 2, "together": 1}  # as the sentence has it
    assert hop2["order_0.95"].value_counts()[["path first", "answer first"]].tolist() == [2, 2]
    tests = numbers.table("confirmatory", "comparisons")
    declared = tests[(tests.family == "declared")]
    assert (declared.horizon == 30_000).all() and len(declared) == 6
    fast = declared[declared.group_b.str.startswith("both")]
    assert (fast.high < 0.5).all() and (fast.p == fast.p_smallest).all() and fast.p.max() == 1 / 128
    assert f"the p of {fast.p_holm.max():.3f} is of the six tests" in text and 8 / 128 == 0.0625
    lags = -both["lag_0.5"].dropna()
    assert len(lags) == 6 and f"by {lags.min():,.0f} to {lags.max():,.0f} steps in the six" in text
    path = numbers.table("confirmatory", "comparisons").set_index(["group_b", "quantity", "level"])
    path = path.loc[("both_hop_full, phi inf", "steps to path", 0.5)]
    assert f"step {path.horizon:,.0f} the ratio of restricted means is {path.estimate:.2f}" in text
    assert f"is {path.estimate:.2f} [{path.low:.2f}, {path.high:.2f}] at 0.5" in text
    denoised = paths[paths.reading == "denoising"].groupby("second").largest_difference.median()
    medians = f"{denoised['both_hop_full, phi inf']:.2f} and {denoised['another seed']:.2f}"
    assert f"(medians of {medians})" in text


def test_the_sentences_on_new_facts_say_what_the_tables_do():
    text = (ROOT / "docs" / "results.md").read_text()
    runs = numbers.table("confirmatory", "transfers").set_index("seeds.data")
    ends = runs[runs.source_checkpoint == "end"]
    natural, control = (ends[ends.source_group == group] for group in ("natural", "control_atomic"))
    assert (runs.atomic_new == 1).all() and "all learn every new fact" in text
    apart = natural.new_then_old - control.new_then_old
    assert (apart > 0).all() and apart.min() < 0.01 and (natural.new_then_old < 0.9).all()
    most = natural[list(CATEGORIES)].idxmax(axis=1)
    assert (most == "old_then_new").sum() == 7 and "in seven of eight natural seeds" in text
    both = ends[ends.source_group == "both_hop_full"]
    most = both[list(CATEGORIES)].idxmax(axis=1)
    assert (most == "old_then_new").all() and "in all of both_hop_full's" in text
    assert both.new_then_old.mean() < natural.new_then_old.mean()
    assert 0.35 < natural.train_inferred.mean() < 0.45 and "some four in ten" in text


def test_the_first_sections_numbers_are_the_tables():
    text = (ROOT / "docs" / "results.md").read_text()
    small = numbers.table("small", "outcomes").groupby("regime")
    half = {regime: int((own.final_ood_accuracy >= 0.5).sum()) for regime, own in small}
    assert f"{half['natural']} of 8 seeds come to answer half of the OOD compositions" in text
    asked = numbers.table("transfer", "transfer_accuracy").groupby(["group", "checkpoint", "asked"])
    mean = asked.accuracy.mean()
    assert f"in earlier runs {mean['natural', 'end', 'new_then_old']:.2f} after 1,500" in text
    kinds = ("old_then_new", "new_then_new")
    most = [mean[mean.index.get_level_values("asked") == kind].max() for kind in kinds]
    assert f"they do not after 1,500 steps ({most[0]:.2f} and {most[1]:.2f} at most)" in text
    pairs = [line for line in numbers.small_pairs().splitlines() if " of 8 " in line]
    outside = [8 - int(re.search(r"(\d) of 8", line)[1]) for line in pairs]
    told = {1: "one", 2: "two"}
    assert f"{told[outside[0]]} goes another way on ID queries, {told[outside[1]]} on OOD" in text


def test_a_changed_table_is_noticed(monkeypatch):
    before = numbers.small_accuracies()
    real = numbers.table

    def other(experiment, name):
        found = real(experiment, name)
        return found.assign(final_ood_accuracy=0.5) if name == "outcomes" else found

    monkeypatch.setattr(numbers, "table", other)
    assert numbers.small_accuracies() != before
