"""What is declared of a setting."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from grokjax.settings.ranges import Range


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
      default: the study's, unless `help` says otherwise; its type is the setting's.
      help: one line.
      allowed: what a number must be, or the texts to choose from.
      traced: whether it may differ between the runs of a population; what is static shapes the
        program, or the vocabulary, and is shared by all of them.
      identity: whether a run with another value is another run.
      added: it came after the first workdirs. A run that has the default is then the run that it
        was before, so that the default must never change.
      own_file: whether it may also be `FILE.py:NAME`, a function of a file (docs/extending.md).
      whole_file: whether it may be `FILE.py` as well, a file with functions of fixed names.
      also: what else people call it, words with a section where the bare one would mislead.
    """

    default: Any
    help: str
    allowed: Range | tuple[str, ...] | None = None
    traced: bool = False
    identity: bool = True
    added: bool = False
    own_file: bool = False
    whole_file: bool = False
    also: str = ""


static = Setting
traced = functools.partial(Setting, traced=True)
# How long a run trains, with whom, and what becomes of it later: not who it is.
apart = functools.partial(Setting, identity=False)
