"""What a task declares: its questions, its probe types by role, what a question hides.

Whatever measures, tells or draws reads names and roles from here and knows no task by name.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from grokjax.base import names
from grokjax.base.errors import UserError

# What a probe type is for: trained on; held out, but like what is trained on; what grokking is told
# by, of which there is one; anything else.
TRAINED, HELD_OUT, GENERALISATION, OTHER = "trained", "held out", "generalisation", "other"
ROLES = (TRAINED, HELD_OUT, GENERALISATION, OTHER)

FOUND, FOUND_STRICT, CHANCE, CHANCE_STRICT = "found", "found_strict", "chance", "chance_strict"
READINGS = (FOUND, FOUND_STRICT, CHANCE, CHANCE_STRICT)
_JOINT = "path"  # of several hidden tokens: all of them are read


@dataclasses.dataclass(frozen=True)
class ProbeType:
    """Queries that are measured together.

    name: in columns, `NAME/answer_accuracy`.
    role: one of ROLES.
    length: tokens of a question, from the task's first on; 0: all of them.
    hides: whether its queries have the task's hidden tokens.
    """

    name: str
    role: str
    length: int = 0
    hides: bool = True


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A token that a question implies and nobody shows: what a circuit would compute on the way.

    name: in columns, `TYPE/NAME_found`.
    given_by: the tokens of the question that it follows from.
    """

    name: str
    given_by: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """The declaration of a task; hashable, so that programs can be shaped by it.

    name: of the task.
    question: what its tokens are called, in order.
    types: of its probes.
    hidden: none, one or two tokens.
    unseen: in words, the queries of the generalisation type, and `short`, their adjective.
    familiar: those of the held-out type, and `short_familiar`.
    chosen_on: those of `site_types`.
    about_unseen: what they are, in a few words.
    exposing: columns of `runs.csv` that count training items of the kind of unseen queries, which
      are called `exposure`; where all are 0 an answer to unseen queries is generalisation.
    of_facts: whether queries are chains of `Dataset.id_facts` and its like, of which any can be
      asked: pairs for patching are drawn from all of them, and new facts can be learned on top.
    """

    name: str
    question: tuple[str, ...]
    types: tuple[ProbeType, ...]
    hidden: tuple[Hidden, ...] = ()
    unseen: str = "unseen queries"
    short: str = "unseen"
    familiar: str = "held-out queries"
    short_familiar: str = "held-out"
    chosen_on: str = "familiar queries"
    about_unseen: str = ""
    exposing: tuple[str, ...] = ()
    exposure: str = "items like these queries"
    of_facts: bool = False

    @property
    def positions(self) -> tuple[str, ...]:
        """Names of the T places of a sequence."""
        return (*self.question, "answer", "end")

    @property
    def num_tokens(self) -> int:
        """T: the question, the answer and `</a>`."""
        return len(self.question) + 2

    @property
    def type_names(self) -> tuple[str, ...]:
        return tuple(kind.name for kind in self.types)

    @property
    def trained(self) -> tuple[str, ...]:
        """Types whose mean exact match is the training accuracy."""
        return self._with_role(TRAINED)

    @functools.cached_property
    def held_out(self) -> str:
        """The type that is like what is trained on; empty where a task has none."""
        return (*self._with_role(HELD_OUT), "")[0]

    @functools.cached_property
    def generalisation(self) -> str:
        """The type that grokking is told by."""
        return self._with_role(GENERALISATION)[0]

    @property
    def hiding(self) -> tuple[str, ...]:
        """Types whose queries hide something."""
        return tuple(kind.name for kind in self.types if kind.hides and self.hidden)

    @property
    def site_types(self) -> tuple[str, ...]:
        """Types on which the place of a path is chosen: never those that it is then told of."""
        likely = (*self.trained, *self._with_role(HELD_OUT))
        return tuple(name for name in self.hiding if name in likely)

    @property
    def read_types(self) -> tuple[str, ...]:
        """Types that the lens is shown of: those that hide something, where anything is hidden."""
        whole = (k.name for k in self.types if self.length_of(k.name) == len(self.question))
        return self.hiding or tuple(whole)

    def length_of(self, kind: str) -> int:
        """Tokens of a type's questions."""
        found = next(x for x in self.types if x.name == kind)
        return found.length or len(self.question)

    # What columns of `curves.csv` are called.

    @property
    def path(self) -> str:
        """The hidden token; of several, that all are read. Empty where nothing is hidden."""
        if len(self.hidden) < 2:
            return self.hidden[0].name if self.hidden else ""
        return _JOINT

    @property
    def readings(self) -> tuple[str, ...]:
        """What is measured of the types that hide something, over what all types have."""
        read = dict.fromkeys([*(h.name for h in self.hidden), self.path])
        return tuple(f"{name}_{reading}" for name in read if name for reading in READINGS)

    @property
    def accuracy(self) -> str:
        """Of the answers that grokking is told by."""
        return f"{self.generalisation}/{names.ANSWER_ACCURACY}"

    @property
    def held_out_accuracy(self) -> str:
        return f"{self.held_out}/{names.ANSWER_ACCURACY}"

    def of_path(self, reading: str) -> str:
        """The column of a reading of the path; one that no table has where nothing is hidden."""
        return f"{self.generalisation}/{self.path}_{reading}"

    @property
    def kept_path(self) -> str:
        """The strict rate at the site that a run keeps (`statistics.events.at_kept_site`)."""
        return self.of_path("found_at_site")

    def by_site(self, hidden: str) -> str:
        """The strict rate by site, `PREFIX/STAGE/POSITION`."""
        return f"{self.generalisation}/{hidden}_found_at"

    def site_column(self, hidden: str, what: str) -> str:
        """Where a hidden token is read: `path_stage`, of several `NAME/path_stage`."""
        return what if len(self.hidden) < 2 else f"{hidden}/{what}"

    @property
    def event_metrics(self) -> dict[str, str]:
        """Events, and the metric that each is read from."""
        metrics = {names.MEMORISED: names.TRAINING_ACCURACY}
        if self.hidden:
            metrics |= {names.PATH: self.kept_path, names.ANY_PATH: self.of_path(FOUND)}
        return metrics | {names.ANSWER: self.accuracy}

    @property
    def headline_metrics(self) -> dict[str, str]:
        """What is shown while a training goes on, by a word for each."""
        shown = {"train": names.TRAINING_ACCURACY, self.short.lower(): self.accuracy}
        return shown | ({self.path: self.of_path(FOUND)} if self.hidden else {})

    def _with_role(self, role: str) -> tuple[str, ...]:
        return tuple(kind.name for kind in self.types if kind.role == role)


def check_task(task: Task) -> None:
    """Refuses a declaration that nothing could be measured by.

    Raises:
      ValueError: what is wrong with it.
    """
    if not task.question:
        raise ValueError("declares a question without tokens")
    if len(set(task.positions)) < len(task.positions):
        raise ValueError(f"gives two places of a sequence one name: {', '.join(task.positions)}")
    if len(task.hidden) > 2:
        raise ValueError(f"hides {len(task.hidden)} tokens; one or two can be told apart")
    if len(set(task.type_names)) < len(task.types) or not task.types:
        raise ValueError("declares no probe types, or two of one name")
    for kind in task.types:
        if kind.role not in ROLES:
            raise ValueError(f"gives {kind.name} the role {kind.role!a}, none of {ROLES}")
        if not 0 <= kind.length <= len(task.question):
            raise ValueError(f"gives {kind.name} a length outside of 0..{len(task.question)}")
    for name in (*task.type_names, *(h.name for h in task.hidden), *task.question):
        if not str(name).isidentifier():
            raise ValueError(f"has the name {str(name)[:40]!a}; take letters, digits and _")
    for role in (TRAINED, GENERALISATION):
        count = sum(kind.role == role for kind in task.types)
        if not count or (role == GENERALISATION and count > 1):
            raise ValueError(f"has {count} probe types of the role '{role}'; give one")
    for hidden in task.hidden:
        if unknown := set(hidden.given_by) - set(task.question):
            raise ValueError(f"says that {hidden.name} is given by {unknown.pop()}: no such token")


def to_json(task: Task) -> dict[str, Any]:
    """A declaration as a workdir keeps it: who reads one executes no file that it names."""
    return dataclasses.asdict(task)


def from_json(content: Mapping[str, Any]) -> Task:
    """The declaration that `to_json` gave.

    Raises:
      UserError: it is none.
    """
    try:
        given = dict(content)
        types = tuple(ProbeType(**kind) for kind in given.pop("types"))
        hidden = tuple(
            Hidden(str(h["name"]), tuple(map(str, h["given_by"]))) for h in given.pop("hidden")
        )
        question = tuple(map(str, given.pop("question")))
        exposing = tuple(map(str, given.pop("exposing", ())))
        task = Task(question=question, types=types, hidden=hidden, exposing=exposing, **given)
        check_task(task)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"task: not a declaration ({error}); restore config.json") from None
    return task
