"""What numbers of settings may be, each with the words that a refusal takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number must be, in words and as a test that no NaN passes."""

    wanted: str
    holds: Callable[[float], bool]


COUNT = Range("at least 1 and below 2**31", lambda x: 1 <= x < 2**31)
SEED = Range("a whole number from 0 to 2**31 - 1", lambda x: 0 <= x < 2**31)
MODULUS = Range("from 2 to 1000", lambda x: 2 <= x <= 1000)
UP_TO_1000 = Range("at least 1 and at most 1000", lambda x: 1 <= x <= 1000)
FINITE = Range("finite and at least 0", lambda x: 0 <= x < math.inf)
SIZE = Range("finite and above 0", lambda x: 0 < x < math.inf)
ABOVE_0 = Range("above 0", lambda x: x > 0)
FROM_0 = Range("at least 0", lambda x: x >= 0)
FROM_1 = Range("at least 1", lambda x: x >= 1)
BELOW_1 = Range("at least 0 and below 1", lambda x: 0 <= x < 1)
SHARE = Range("between 0 and 1", lambda x: 0 <= x <= 1)
AT_MOST_1 = Range("at most 1", lambda x: x <= 1)
WHOLE = Range("below 2**31", lambda x: abs(x) < 2**31)
