"""A graph of one's own: the definitions of a drawn one, however many compositions it has."""

import numpy as np
import pytest
from tiny import ROOT

from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.data import folder as data_folder
from grokjax.data.chains import Chains, shuffled
from grokjax.data.folder import read_folder, write_folder
from grokjax.data.graph import chain_facts
from grokjax.data.own_facts import dataset_of_triples
from grokjax.data.triples import Triples, read_triples
from grokjax.runtime import progress
from grokjax.settings import default_config


@pytest.fixture(scope="module")
def triples(tmp_path_factory) -> Triples:
    """80 people; the first is known to half of them."""
    path = tmp_path_factory.mktemp("own") / "people.csv"
    path.write_text(table(80, 6, np.random.default_rng(0)))
    return read_triples(path)


def table(num: int, num_facts: int, rng: np.random.Generator) -> str:
    rows = []
    for person in range(num):
        for relation in rng.permutation(9)[:num_facts]:
            tail = 0 if rng.random() < 0.5 else rng.integers(num)
            rows.append(f"person {person},relation {relation},person {tail}\n")
    return "head,relation,tail\n" + "".join(rows)


def settings(**changes):
    config = default_config()
    config.data.update({"phi": 2.0, "ood_fraction": 0.15, "iid_test_fraction": 0.1} | changes)
    return config.data


def rows(table):
    return {tuple(row) for row in np.asarray(table.query)[:, :3].tolist()}


def of_type(dataset, name):
    query = np.asarray(dataset.probes.table.query)[dataset.probes.types == name]
    return {tuple(row) for row in query[:, :3].tolist()}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_an_order_is_one_of_all(size):
    order = shuffled(size, 0, size, 5)
    assert sorted(order) == list(range(size))
    np.testing.assert_array_equal(
        order[size // 3 : size // 2], shuffled(size, size // 3, size // 2, 5)
    )
    if size > 100:
        assert np.any(order != shuffled(size, 0, size, 6))
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.1


def test_a_prefix_of_a_huge_order_is_spread_and_distinct():
    drawn = shuffled(10**14, 0, 20_000, 1)
    assert len(np.unique(drawn)) == 20_000 and drawn.min() >= 0 and drawn.max() < 10**14
    assert abs(drawn.mean() / 10**14 - 0.5) < 0.02


def test_chains_are_all_compositions(triples):
    facts = triples.facts
    everything = np.arange(len(facts))
    chains = Chains(facts, everything, everything)
    found = chains.at(np.arange(chains.size))
    expected = np.stack(chain_facts(facts), axis=1)
    assert set(map(tuple, found.tolist())) == set(map(tuple, expected.tolist()))
    assert len(found) == len(expected)
    own = chains.of(3, 4, 0)
    assert len(own) == min(4, chains.counts[3]) and set(own[:, 0].tolist()) == {3}
    assert np.all(facts[own[:, 0], 2] == facts[own[:, 1], 0])


@pytest.mark.parametrize("regime", ["natural", "both_hop_full", "second_hop_full"])
def test_definitions_are_those_of_a_drawn_graph(triples, regime):
    data = dataset_of_triples(triples, settings(regime=regime), 3)
    tail = {(h, r): t for h, r, t in triples.facts.tolist()}
    ood = {(h, r) for h, r, _ in data.ood_facts.tolist()}
    assert len(ood) == round(0.15 * len(tail)) and len(data.id_facts) == len(tail) - len(ood)
    kinds = []
    for head, first, second, answer in data.train.query.tolist():
        bridge = tail[head, first]
        assert answer == (tail[bridge, second] if second else bridge)
        if second:
            kinds.append(((head, first) in ood, (bridge, second) in ood))
    assert (True, True) not in kinds
    assert kinds.count((False, False)) == data.parts["num_base"] == 2 * len(data.id_facts)
    assert kinds.count((True, False)) == data.parts["num_hop1_added"]
    assert kinds.count((False, True)) == data.parts["num_hop2_added"]
    assert (data.parts["num_hop1_added"] > 0) == (regime == "both_hop_full")
    assert (data.parts["num_hop2_added"] > 0) == (regime != "natural")
    for name, both in (("test_inferred_iid", False), ("test_inferred_ood", True)):
        asked = of_type(data, name)
        assert asked and not asked & rows(data.train)
        assert all(((h, r) in ood, (tail[h, r], s) in ood) == (both, both) for h, r, s in asked)
    assert of_type(data, "train_inferred") <= rows(data.train)


def test_more_of_anything_adds_and_takes_nothing_away(triples):
    few = dataset_of_triples(triples, settings(phi=1.0, hop1_ratio=0.5, hop1_k=2), 0)
    more = dataset_of_triples(triples, settings(phi=3.0, hop1_ratio=1.0, hop1_k=5), 0)
    assert rows(few.train) < rows(more.train)
    np.testing.assert_array_equal(
        few.probes.table.query[few.probes.types == "test_inferred_ood"],
        more.probes.table.query[more.probes.types == "test_inferred_ood"],
    )
    other = dataset_of_triples(triples, settings(phi=1.0, hop1_ratio=0.5, hop1_k=2), 1)
    assert rows(few.train) != rows(other.train)


def test_the_whole_pool_is_everything_that_is_not_held_out(triples):
    data = dataset_of_triples(triples, settings(phi=np.inf, iid_test_fraction=0.0), 0)
    num = Chains(data.id_facts, *[np.arange(len(data.id_facts))] * 2).size
    assert data.parts["num_base"] == num and not of_type(data, "test_inferred_iid")


def test_what_there_is_not_is_one_line(triples):
    with pytest.raises(UserError, match=r"data.phi: 500 asks for .* give at most [\d.]+") as error:
        dataset_of_triples(triples, settings(phi=500.0), 0)
    largest = float(str(error.value).split()[-1])
    dataset_of_triples(triples, settings(phi=largest), 0)
    assert dataset_of_triples(triples, settings(phi=500.0), 0, at_most=True).parts["num_base"] > 0
    with pytest.raises(UserError, match="no two of its 0 OOD facts make a composition"):
        dataset_of_triples(triples, settings(ood_fraction=0.0), 0)


def test_a_graph_that_is_too_large_to_compose(tmp_path):
    """A hub that everybody points to and that points to everybody: 10**10 compositions."""
    num = 30_000
    rows = [f"a{i},to,hub\nhub,r{i % 2000},a{i}\n" for i in range(num)]
    path = tmp_path / "hub.csv"
    path.write_text("".join(rows))
    triples = read_triples(path)
    data = dataset_of_triples(triples, settings(regime="both_hop_half"), 0)
    assert data.parts["num_base"] == 2 * len(data.id_facts)
    assert data.parts["num_hop1_added"] > 0 and data.counts["num_test_inferred_ood"] == 3000


def test_what_would_not_be_read_back_is_not_written(triples, tmp_path, monkeypatch):
    monkeypatch.setattr(data_folder, "MAX_JSON_BYTES", 100_000)
    room = data_folder.most_items(triples.vocabulary, triples.facts)
    data = dataset_of_triples(triples, settings(phi=np.inf, max_probes=50), 0, at_most=True)
    assert len(data.train.query) <= room
    write_folder(data, tmp_path / "fits")
    assert 80_000 < (tmp_path / "fits/train.json").stat().st_size <= 100_000
    monkeypatch.setattr(data_folder, "MAX_JSON_BYTES", 50_000)
    with pytest.raises(UserError, match=r"lower data\.phi"):
        write_folder(data, tmp_path / "does not")
    assert not list((tmp_path / "does not").iterdir())
    monkeypatch.setattr(data_folder, "MAX_JSON_BYTES", 5_000)
    with pytest.raises(UserError, match="480 facts are over the"):
        dataset_of_triples(triples, settings(phi=np.inf), 0, at_most=True)


def test_the_table_in_docs_is_one(tmp_path, capsys, monkeypatch):
    """By the page's own command."""
    page = (ROOT / "docs" / "data.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "triples.csv").write_text(page.split("```csv\n")[1].split("```")[0])
    command = next(x for x in page.splitlines() if x.startswith("grokjax data --from-csv"))
    assert main(command.split()[1:]) == 0
    assert "11 rows: 11 facts, 10 entities, 4 relations" in capsys.readouterr().out
    assert "Acme, Inc." in {*map(read_folder("runs/my_data").vocabulary.name, range(1, 15))}


def test_the_command_says_how_far_it_is_and_refuses_more_than_can_be_read_back(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "_LOG_EVERY", 0.0)
    source = tmp_path / "people.csv"
    source.write_text(table(60, 5, np.random.default_rng(1)))
    command = ["data", f"--from-csv={source}", "--config.data.ood_fraction=0.2"]
    assert main([*command, f"--out={tmp_path / 'a'}"]) == 0
    assert "train.json: 1 of " in capsys.readouterr().out
    monkeypatch.setattr(data_folder, "MAX_JSON_BYTES", 5_000)  # as three million rows are
    assert main([*command, f"--out={tmp_path / 'b'}"]) == 2
    error = capsys.readouterr().err
    assert "300 facts are over the" in error and error.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_the_command_writes_what_it_says(triples, tmp_path, capsys):
    source = tmp_path / "people.csv"
    source.write_text(table(60, 5, np.random.default_rng(1)) + "x,y,z\n")
    out = tmp_path / "data"
    command = ["data", f"--from-csv={source}", f"--out={out}", "--config.data.ood_fraction=0.2"]
    assert main([*command, "--config.data.regime=both_hop_full"]) == 0
    printed = capsys.readouterr().out
    assert "301 rows: 301 facts" in printed and "row 302: x, y, z" in printed
    assert f"--config.data.folder={out}" in printed
    assert (out / "notes.csv").read_text() == "row,head,relation,tail,what\n302,x,y,z,lonely\n"
    back = read_folder(out)
    assert f"train {back.counts['num_train']:,}" in printed and back.counts["num_hop1_added"] > 0
    assert "person 3" in {back.vocabulary.name(i) for i in back.vocabulary.entity_ids}
    for more, message in (
        ([], "exists already"),
        (["--config.data.phi=900"], "exists already"),
        (["--out=" + str(tmp_path / "b"), "--config.data.phi=900"], "give at most"),
        (["--out=" + str(tmp_path / "b"), "--config.data.phy=900"], "did you mean 'data.phi'"),
        (["--out=" + str(tmp_path / "b"), "--workdir=w"], "leave it out"),
    ):
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "b").exists()
