"""Every annotation of the package, checked when a test calls what it annotates.

jaxtyping's import hook wraps each function and each dataclass of `grokjax`. A dataclass that JAX
takes apart and builds again (`tree.map`, `vmap`, `eval_shape`) may then hold shapes, None or
markers in place of arrays, or arrays with more axes: it is built again without its checked
`__init__`. What code builds by name is checked.
"""

import dataclasses

import jax
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# An int is a float, as it is for mypy.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
JAX_REGISTERS = jax.tree_util.register_dataclass


def check_annotations() -> None:
    """Before the first import of `grokjax`."""
    jax.tree_util.register_dataclass = _register
    install_import_hook("grokjax", "shapes.checked")


def _register(cls, *others):
    if not cls.__module__.startswith("grokjax."):
        return JAX_REGISTERS(cls, *others)
    fields = dataclasses.fields(cls)
    static = [field.name for field in fields if field.metadata.get("static")]
    data = [field.name for field in fields if field.name not in static]

    def flatten_with_keys(node):
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in data]
        return leaves, tuple(getattr(node, name) for name in static)

    def unflatten(values, leaves):
        node = object.__new__(cls)
        node.__dict__.update(zip(data, leaves, strict=True))
        node.__dict__.update(zip(static, values, strict=True))
        return node

    def flatten(node):
        return [getattr(node, name) for name in data], tuple(getattr(node, name) for name in static)

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
