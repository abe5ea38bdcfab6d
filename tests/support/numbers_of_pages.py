"""The numbers of README.md and docs/, made from the committed tables.

    python tests/support/numbers_of_pages.py          (writes them anew; the tests compare)

A page holds them between `<!-- numbers: NAME -->` and `<!-- end -->`; NAME is a function here.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

from markdown_of_tables import REGIMES, how_many, listed, markdown, span, spread, table
from numbers_of_accelerators import ACCELERATORS
from numbers_of_confirmation import CONFIRMATION
from numbers_of_operations import OPERATIONS
from numbers_of_search import search
from numbers_of_tasks import TASKS
from numbers_of_transfer import (
    transfer,
    transfer_dose,
    transfer_equivalence,
    transfer_gain,
    transfer_halves,
)

from grokjax.analysis.path_identity import verdict as share_verdict
from grokjax.base import names
from grokjax.report import summary
from grokjax.statistics.intervals import wilson

ROOT = pathlib.Path(__file__).parents[2]
PAGES = (
    "README.md", "docs/results.md", "docs/operations.md", "docs/accelerators.md", "docs/tasks.md",
)  # fmt: skip
BLOCK = re.compile(r"(<!-- numbers: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def quickstart_printed() -> str:
    curves = table("quickstart", "curves")
    made = summary.summarize(table("quickstart", "runs"), curves)
    text = summary.summary_table(made, int(curves.step.max()))
    lines = text.splitlines()
    return "```\n" + "\n".join(lines[: 2 + len(made)]) + "\n```\n"


def quickstart() -> str:
    own = table("quickstart", "outcomes")
    rows = [
        [
            regime,
            *(
                spread(these[column])
                for column in (
                    "final_ood_accuracy", "final_iid_accuracy", "any_path_score", "path_score",
                    "any_chance",
                )
            ),
        ]
        for regime, these in own.groupby("regime", sort=False)
    ]  # fmt: skip
    header = (
        "regime", "OOD accuracy", "held-out ID accuracy", "bridge found", "bridge found, strict",
        "chance of bridge found",
    )  # fmt: skip
    return markdown(header, rows)


def quickstart_order() -> str:
    own = table("quickstart", "order")
    rows = []
    for (group, reading, level), these in own.groupby(["group", "reading", "level"], sort=False):
        counts = these.set_index("order")["count"]
        rows.append([group, reading, f"{level:g}", *(counts[word] for word in names.ORDERS)])
    return markdown(("regime", "path", "level", *names.ORDERS), rows)


def quickstart_comparisons() -> str:
    own = table("quickstart", "comparisons")
    own = own[(own.quantity == "steps to answer") & (own.group_a == "natural")]
    rows = [
        [
            f"{row.group_b} over {row.group_a}",
            f"{row.level:g}",
            f"{row.bound if isinstance(row.bound, str) else ''} {row.estimate:.2f}".strip(),
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.censored_b} of {row.n_b}, {row.censored_a} of {row.n_a}",
            f"{row.p:.3f}",
            f"{row.p_smallest:.3f}",
            f"{row.p_holm:.3f}",
        ]
        for row in own.itertuples()
    ]
    header = (
        "steps to answer, ratio of restricted means", "level", "estimate", "of single pairs",
        "not by the end", "p", "smallest p", "p (Holm)",
    )  # fmt: skip
    return markdown(header, rows)


def reused() -> str:
    """Runs of the quickstart that another experiment counts as its own."""
    own = table("quickstart", "outcomes").also_in.dropna()
    total = len(table("fake_grokking", "runs"))
    return (
        f"{(own == 'fake_grokking').sum()} of its {total} runs are the quickstart's own (the same"
        " settings by another name, and the same numbers): they are no new evidence.\n"
    )


def quickstart_patching() -> str:
    own = table("quickstart", "patching_id_denoising")
    site = (own.component == "z_H") & (own.place == "H0_Commit") & (own.position == "answer")
    own = own[site].set_index(["group_of_runs", "slot"])
    slots = ("head", "relation1", "relation2")
    rows = []
    for regime in dict.fromkeys(own.index.get_level_values(0)):
        of = [own.loc[(regime, slot)] for slot in slots]
        effects = [f"{x.effect:.2f} [{x.low:.2f}, {x.high:.2f}]" for x in of]
        rows.append([regime, *effects, listed(x.null_effect for x in of)])
    header = (
        "regime", "head", "relation 1", "relation 2",
        "a random donor: head, relation 1, relation 2",
    )  # fmt: skip
    return markdown(header, rows)


# What was made before, and of which no curves are kept.


def small_times() -> str:
    own = table("small", "outcomes")
    rows = [
        [
            f"{regime}, {these.end_step.iloc[0]:,} steps",
            span(these.memorised),
            how_many(these.path),
            how_many(these.grokked),
        ]
        for regime, these in own.groupby("regime", sort=False)
    ]
    header = ("regime, 8 seeds each", "memorised", "path readable (0.5)", "OOD answers at 0.95")
    return markdown(header, rows)


def small_accuracies() -> str:
    own = table("small", "outcomes").groupby("regime", sort=False)
    rows = [[regime, listed(these.final_ood_accuracy)] for regime, these in own]
    return markdown(("regime", "OOD accuracy of seeds 0 to 7 at the end"), rows)


def small_costs() -> str:
    """From means of those that got there and what a censored run has spent at least."""
    costs = table("small", "costs")
    costs = costs[costs.ood_accuracy == 0.5].set_index("group")
    flops = table("small", "outcomes").groupby("regime").flops.first()
    until = flops.max()
    restricted = (costs.reached * costs.flops + (costs.num_runs - costs.reached) * until) / (
        costs.num_runs
    )
    rows = []
    for regime, row in costs.iterrows():
        missing = int(row.num_runs - row.reached)
        ratio = ""
        if regime != "natural":
            bound = "at most " if not missing else "no bound: "
            ratio = f"{bound}{restricted[regime] / restricted['natural']:.2f}"
        rows.append(
            [
                regime,
                f"{row.reached:.0f} of {row.num_runs:.0f}"
                + (f", {missing} had not" if missing else ""),
                f"{row.flops:.1e}",
                f"{restricted[regime]:.1e}",
                ratio,
            ]
        )
    header = (
        "regime", "runs that got there", "FLOP, mean of those alone",
        f"mean up to {until:.1e} FLOP", "ratio of these means to natural",
    )  # fmt: skip
    return markdown(header, rows)


def small_dip() -> str:
    """Evaluations at which the lowest run falls after all had memorised, and those beside them."""
    own = table("small", "report_curves").set_index(["group", "step", "metric"])
    rows = []
    for regime in REGIMES:
        lowest = own.loc[regime].low.unstack("metric")
        training = lowest[names.TRAINING_ACCURACY]
        reached = training.cummax() >= names.EVENT_AT
        fell = reached & (training < 0.95 * training.cummax())
        near = fell | fell.shift(1, fill_value=False) | fell.shift(-1, fill_value=False)
        for step in training.index[near]:
            median = own.loc[(regime, step, names.TRAINING_ACCURACY)]["median"]
            accuracies = (training[step], median, lowest[names.OOD_ACCURACY][step])
            rows.append([regime, f"{step:,}", *(f"{x:.3f}" for x in accuracies)])
    header = (
        "regime, 8 seeds", "step", "lowest training accuracy", "median", "lowest OOD accuracy",
    )  # fmt: skip
    return markdown(header, rows)


def small_again() -> str:
    """Seeds of both_hop_full trained again, with many more evaluations."""
    own = table("small", "dips")
    rows = []
    for seed, these in own.groupby("seed"):
        lowest = these.loc[these.training_accuracy.idxmin()] if these.fell.any() else None
        fall = "none" if lowest is None else f"{lowest.training_accuracy:.3f} at {lowest.step:,}"
        rows.append([str(seed), f"{these.step.max():,}", str(these.num_evaluations.max()), fall])
    header = ("seed", "to step", "evaluations after memorisation", "falls of training accuracy")
    return markdown(header, rows)


def small_patching() -> str:
    own = table("small", "patching_bridge")
    own = own[(own.slot == "head") & (own.direction == "denoising")]
    rows = [
        [regime, group.upper(), listed(these.sort_values("seed").effect)]
        for (regime, group), these in own.groupby(["regime", "group"], sort=False)
    ]
    return markdown(("regime", "queries", "effect of seeds 0 to 7"), rows)


def small_pairs() -> str:
    """Pairs of one seed by the effect at the site that carries the bridge."""
    own = table("small", "patching_bridge")
    own = own[(own.slot == "head") & (own.direction == "denoising")]
    rows = []
    for group, these in own.groupby("group", sort=False):
        by_seed = these.pivot(index="seed", columns="regime", values="effect").dropna()
        distance = (by_seed.natural - by_seed.second_hop_full).abs()
        within = int((distance <= 0.25).sum())
        share, said = share_verdict(within, len(distance), len(distance))
        outside = ", ".join(f"seed {s} ({d:.2f})" for s, d in distance[distance > 0.25].items())
        rows.append(
            [
                group.upper(),
                f"{within} of {len(distance)}",
                f"{share.mean:.2f} [{share.low:.2f}, {share.high:.2f}]",
                outside,
                said,
            ]
        )
    header = (
        "queries", "pairs within 0.25", "share (Wilson)", "outside (difference)", "verdict",
    )  # fmt: skip
    return markdown(header, rows)


def phase_diagram() -> str:
    own = table("fake_grokking", "outcomes")
    runs = table("fake_grokking", "runs").set_index("run_id")
    own = own.join(runs[["data.hop1_ratio", "data.hop2_ratio"]], on="run_id")
    rows = []
    for (one, two), these in own.groupby(["data.hop1_ratio", "data.hop2_ratio"], sort=True):
        n = len(these)
        got_there, path = (these[c].notna().sum() for c in ("grokked", "path"))
        rows.append(
            [
                f"{one:g}",
                f"{two:g}",
                listed(these.final_ood_accuracy),
                _share(got_there, n),
                _share(path, n),
            ]
        )
    header = (
        "hop-1 ratio", "hop-2 ratio", "OOD accuracy of the three seeds", "reached 0.95 (Wilson)",
        "path readable at 0.5 (Wilson)",
    )  # fmt: skip
    return markdown(header, rows)


def _share(count: int, n: int) -> str:
    found = wilson(int(count), n)
    return f"{count} of {n} [{found.low:.2f}, {found.high:.2f}]"


def models() -> str:
    own = table("baseline", "comparison")
    last = own[own.step == own.step.max()].set_index(["model", "metric", "regime"])
    parameters = {"ordinary": 204_416, "looped": 104_448, "recursive": 61_762}
    cells = [
        (metric, regime)
        for metric in (names.OOD_ACCURACY, names.OOD_BRIDGE_FOUND_STRICT)
        for regime in ("both_hop_full", "natural")
    ]
    rows = []
    for model, count in parameters.items():
        found = [last.loc[(model, *cell)] for cell in cells]
        texts = [f"{x['median']:.2f} ({x.low:.2f} to {x.high:.2f})" for x in found]
        rows.append([model, f"{count:,}", *texts])
    header = (
        "model", "parameters", "both_hop_full: OOD accuracy", "natural: OOD accuracy",
        "both_hop_full: bridge found, strict", "natural: the same",
    )  # fmt: skip
    return markdown(header, rows)


def findings() -> str:
    quick = table("quickstart", "outcomes").groupby("regime").final_ood_accuracy
    small = table("small", "outcomes").groupby("regime")
    stays = table("confirmatory", "paths_summary").set_index(["first", "second", "reading"])
    between = stays.loc[("end", "both_hop_full, phi inf", "denoising")]
    stays = stays.loc[("saturation", "end", "denoising")]

    def in_words(pairs):
        return f"{pairs.within:.0f} of {pairs.compared:.0f} runs"

    moved = table("confirmatory", "transfers")
    moved = moved[moved.source_checkpoint == "end"].groupby("source_group")[names.NEW_THEN_OLD]
    link = "[{0}](experiments/results/{0})".format
    rows = [
        [
            f"training OOD facts inside compositions replaces grokking: {link('quickstart')},"
            " 4 seeds",
            *(spread(quick.get_group(r)) for r in REGIMES),
            "reproduced",
        ],
        [
            f"natural data grok late: {link('small')}, 8 seeds",
            *(spread(small.get_group(r).final_ood_accuracy) for r in REGIMES),
            "half: no natural run reaches 0.95 in 40,000 steps",
        ],
        [
            "`second_hop_full` answers before its path: small, path readable (0.5)",
            *(how_many(small.get_group(r).path) for r in REGIMES),
            "not reproduced: its path forms in every seed. It is both_hop_full that answers first",
        ],
        [
            "one path answers ID queries before grokking and after:"
            f" {link('confirmatory')}, fresh seeds, every site within 0.25",
            in_words(stays),
            "not run",
            f"{in_words(between)} as natural's",
            "refuted: what answers them changes as the path comes, and is another with both hops",
        ],
        [
            "grokked models transfer `new then old`, and nothing else: accuracy of `new then old`"
            f" after 10,000 steps, {link('confirmatory')}, fresh seeds",
            *(spread(moved.get_group(r)) if r in moved.groups else "not run" for r in REGIMES),
            "undecided: natural is above a control, far below 1, and had grokked by half;"
            " `old then new` comes to more",
        ],
    ]
    header = ("the study's finding", *REGIMES, "verdict")
    return markdown(header, rows)


def error_rates() -> str:
    own = table("statistics", "error_rates")
    rows = []
    for row in own.itertuples():
        declared = f"at most {row.at_most:g}" if row.at_least == 0 else f"at least {row.at_least:g}"
        rate = f"{row.rate:.3f} [{row.low:.3f}, {row.high:.3f}]"
        rows.append([row.question, row.truth, declared, rate])
    header = ("question, 8 runs a group", "truth", "declared", "measured (Wilson)")
    return markdown(header, rows)


MAKERS: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        quickstart_printed, quickstart, quickstart_order, quickstart_comparisons, reused,
        quickstart_patching, small_times, small_accuracies, small_costs, small_dip,
        small_again, small_patching,
        small_pairs, phase_diagram, models, transfer, transfer_gain, transfer_equivalence,
        transfer_halves, transfer_dose, findings, error_rates, search,
        *ACCELERATORS, *OPERATIONS, *CONFIRMATION, *TASKS,
    )
}  # fmt: skip


def made_anew(text: str) -> str:
    """A page's text with all of its numbers made from the tables."""
    return BLOCK.sub(lambda found: found[1] + MAKERS[found[2]]() + found[4], text)


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(made_anew(path.read_text()))


if __name__ == "__main__":
    main()
