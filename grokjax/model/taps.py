"""Where a forward pass can be looked at and changed: each named place is tapped once per visit."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from grokjax.model.types import BLOCK_COMPONENTS, Patch


class Taps:
    """Records what passes each place of one forward pass, after a patch has had its way with it.

    Args:
      patch: an intervention, or None.
      position_axis: of the states that are tapped, 0 ([S, B, ...]) or 1 ([B, S, ...]).
    """

    def __init__(self, patch: Patch | None, position_axis: int):
        self._patch, self._position_axis = patch, position_axis
        self._seen: dict[str, list[Array]] = {}

    def __call__(self, component: str, x: Array) -> Array:
        """The n-th call with a component's name is about its n-th stage or block."""
        seen = self._seen.setdefault(component, [])
        patch = self._patch
        if patch is not None and component in patch.share:
            source = patch.source[component]
            if component != "embedding":  # the same at every stage
                source = source[len(seen)]
            x = self._mix(x, source, patch.share[component][len(seen)])
        seen.append(x)
        return x

    def recorded(self, component: str) -> Array:
        """All visits of a component, [visits, B, S, ...]."""
        stacked = jnp.stack(self._seen[component])
        return stacked if self._position_axis else jnp.swapaxes(stacked, 1, 2)

    def internals(self) -> dict[str, Array]:
        """What was recorded inside of blocks."""
        return {name: self.recorded(name) for name in BLOCK_COMPONENTS if name in self._seen}

    def _mix(self, x: Array, source: Array, share: Array) -> Array:
        batch_axis = 1 - self._position_axis
        share = jnp.expand_dims(share, batch_axis)
        share = share.reshape(share.shape + (1,) * (x.ndim - share.ndim))
        source = (source if self._position_axis else jnp.swapaxes(source, 0, 1)).astype(x.dtype)
        # Whole shares replace to the last bit.
        mixed = x + share.astype(x.dtype) * (source - x)
        return jnp.where(share == 1, source, mixed)
