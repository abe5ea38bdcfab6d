"""Random draws on the host, each from a stream of its own."""

from __future__ import annotations

import zlib

import numpy as np

from grokjax.base.errors import UserError


def random_stream(seed: int, draw: str) -> np.random.Generator:
    """The random numbers of one named draw; streams of different names share nothing.

    Raises:
      UserError: the seed is negative.
    """
    if seed < 0:
        raise UserError(f"seed: {seed} is negative; give 0 or more")
    return np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(zlib.crc32(draw.encode()),))
    )
