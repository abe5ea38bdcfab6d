"""A person's own facts keep their names, from their table to what reports say."""

import csv
import random

import pandas as pd
from conftest import ROOT

from grokjax.cli import main

PEOPLE = [
    "Alice", "Bob", "Carol", "Dmitri", "Eve", "Farid", "Grace, Jr.", "Hé", "Ines", "Jo <3", "Kim",
    "Lu", "Mo", "N. N.",
]  # fmt: skip
RELATIONS = ["mother", "best friend", "boss"]
SMALL = [
    "--config.model.H_cycles=1", "--config.model.L_cycles=1", "--config.model.num_layers=1",
    "--config.model.hidden_size=16", "--config.train.num_steps=20", "--config.train.batch_size=16",
    "--config.train.eval_every=10", "--config.train.chunk_steps=10", "--config.checkpoint.every=10",
]  # fmt: skip


def test_from_a_table_to_the_reports(tmp_path, unpainted):
    rng = random.Random(0)
    fact = {(who, what): rng.choice(PEOPLE) for who in PEOPLE for what in RELATIONS}
    with open(tmp_path / "facts.csv", "w", newline="") as file:
        csv.writer(file).writerows([who, what, whom] for (who, what), whom in fact.items())
    data, workdir = tmp_path / "data", tmp_path / "w"
    drawn = ["--config.data.ood_fraction=0.3", "--config.data.max_probes=40"]
    source = f"--from-csv={tmp_path / 'facts.csv'}"
    assert main(["data", source, f"--out={data}", *drawn]) == 0
    small = f"--config={ROOT / 'experiments/pretrain.py'}:small"
    train = ["train", str(workdir), small, f"--config.data.folder={data}", *SMALL]
    assert main(train) == 0
    assert main(["analyze", str(workdir), "--pairs=2", "--no-null"]) == 0
    assert main(["report", str(workdir)]) == 0

    asked = pd.read_csv(workdir / "analysis" / "questions.csv")
    pd.testing.assert_frame_equal(asked, pd.read_csv(workdir / "questions.csv"))
    assert len(asked) == 6
    for row in asked.itertuples():
        who, first, second = next(
            (who, first, second)
            for who in PEOPLE
            for first in RELATIONS
            for second in RELATIONS
            if row.question == f"{who}, {first}, {second}"
        )
        assert row.bridge == fact[who, first] and row.answer == fact[row.bridge, second]
        assert row.said in (*PEOPLE, *RELATIONS, "-") or row.said.startswith("<")
    for page in (workdir / "report.html", workdir / "analysis" / "report.html"):
        text = page.read_text()
        assert "OOD compositions by name" in text and "<e_" not in text and "%3C" not in text
        assert all(name.replace("<", "&lt;") in text for name in (*asked.bridge, *asked.answer))
