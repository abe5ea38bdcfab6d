"""Muon (Jordan et al. 2024): `optimizer.name = "results/search/muon.py:muon"` in `experiments`.

The network's matrices move by their orthogonalised momentum, scaled to the size of Adam's steps
(Liu et al. 2025, arXiv 2502.16982), so that learning rate and weight decay mean what they do
elsewhere; embeddings, heads and vectors have Adam's moments.
"""

import jax
import jax.numpy as jnp
import optax

ADAM_SIZE = 0.2  # root mean square of Adam's steps


def muon(h):
    def kinds(params):
        return {name: jax.tree.map(kind_in(name), part) for name, part in params.items()}

    orthogonalised = optax.contrib.scale_by_muon(
        beta=h.beta1, eps=h.eps, weight_dimension_numbers=as_matrices
    )
    matrices = optax.chain(orthogonalised, optax.stateless(as_large_as_adam))
    return optax.partition(
        {"muon": matrices, "adam": optax.scale_by_adam(h.beta1, h.beta2, h.eps)}, kinds
    )


def kind_in(name):
    """Of a parameter by its shape: matrices of the layers are Muon's."""
    return lambda x: "muon" if name == "layers" and jnp.ndim(x) == 2 else "adam"


def as_matrices(updates):
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)


def as_large_as_adam(updates, params):
    """An orthogonal [n, m] has a root mean square of 1 / sqrt(max(n, m))."""
    del params
    return jax.tree.map(lambda u: u * ADAM_SIZE * max(u.shape) ** 0.5, updates)
