"""A scheduler's command-line client, asked with patience and heard in one line."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from grokjax.base.errors import UserError

TIMEOUT = 60  # seconds: without a controller some wait for ever


def ask(command: Sequence[str], *, missing: str, silent: str) -> str:
    """What a client prints.

    Args:
      command: its name, then what it is asked.
      missing: the mend where there is no such client.
      silent: what to look at where it does not answer.

    Raises:
      UserError: there is none, it does not answer, or it refuses.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: not found; {missing}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer in {TIMEOUT} s; {silent}") from None
    if done.returncode:
        raise UserError(f"{command[0]}: {' '.join(done.stderr.split())[:300]}")
    return done.stdout
