"""The confirmatory study of docs/results.md, section 10: fresh seeds, one population per unit.

    grokjax sweep runs/confirmatory --config=experiments/confirmatory.py --dry-run
    grokjax sweep runs/confirmatory --config=experiments/confirmatory.py
    grokjax report runs/confirmatory
    python experiments/results/confirmatory/gather.py runs/confirmatory

`experiments/small.py`'s graph and model, seeds from 8 up, which chose nothing. Units in the order
in which they train, member-steps in thousands: natural (320), both_hop_full and the same on as many
items as natural has (160 each), second_hop_full and first_hop_full (240 each), doses of hop 2 alone
(200 and 100). Two quiet CPU cores make some 75 member-steps a second: 5 hours for all, 71 minutes
for the first. `--population=NAME` trains one unit. A run that the committed `outcomes.csv` has at
its full length is left out, so that a workdir that is lost costs what it had not finished.
"""

import csv
import pathlib

from grokjax.settings import product, read_experiment, seeds
from grokjax.settings.config import with_settings
from grokjax.settings.identity import settings_hash

TABLE = pathlib.Path(__file__).parent / "results" / "confirmatory" / "outcomes.csv"
FIRST_SEED, NUM_SEEDS, NUM_SEEDS_OF_A_DOSE = 8, 8, 4
# By unit: what differs from small.py. phi of the third takes away as many compositions of ID facts
# as both hops add: some 2,080 items either way.
UNITS = (
    ({"data.regime": "natural", "train.num_steps": 40_000}, NUM_SEEDS),
    ({"data.regime": "both_hop_full", "train.num_steps": 20_000}, NUM_SEEDS),
    ({"data.regime": "both_hop_full", "data.phi": 4.88, "train.num_steps": 20_000}, NUM_SEEDS),
    ({"data.regime": "second_hop_full", "train.num_steps": 30_000}, NUM_SEEDS),
    ({"data.regime": "first_hop_full", "train.num_steps": 30_000}, NUM_SEEDS),
    *(
        ({"data.hop2_ratio": 1.0, "data.hop2_k": k, "train.num_steps": 25_000}, NUM_SEEDS_OF_A_DOSE)
        for k in (1, 2, 4)
    ),
)


def get_config():
    config, _ = read_experiment("experiments/small.py")
    config.name = "confirmatory"
    config.sweep.runs_per_population = NUM_SEEDS
    return config


def sweep(add):
    config, done = get_config(), steps_by_hash()
    for unit, num_seeds in UNITS:
        for row in product((unit,), seeds(num_seeds, FIRST_SEED)):
            run_hash = settings_hash(with_settings(config, row))
            if done.get(run_hash, 0) < row["train.num_steps"]:
                add(row)


def steps_by_hash():
    """How far the committed table has each run."""
    if not TABLE.exists():
        return {}
    with TABLE.open() as lines:
        return {row["run_hash"]: int(row["end_step"]) for row in csv.DictReader(lines)}
