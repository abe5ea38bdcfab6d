"""Every annotation of the package, checked when a test calls what it annotates.

jaxtyping's import hook wraps each function and each dataclass of `grokjax`; a function that names
no array gets beartype alone, which is quicker, and one within another, which is wrapped again at
each call of that, nothing. A dataclass that JAX
takes apart and builds again (`tree.map`, `vmap`, `eval_shape`) may then hold shapes, None or
markers in place of arrays, or arrays with more axes: it is built again without its checked
`__init__`. What code builds by name is checked.
"""

import dataclasses
import functools
import inspect
import re
import typing

import jax
import jaxtyping
from beartype import BeartypeConf, beartype

# An int is a float, as it is for mypy.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
JAX_REGISTERS = jax.tree_util.register_dataclass
JAXTYPED = jaxtyping.jaxtyped
ARRAYS = re.compile(r"Array|Bool\b|Float\d*\b|U?Int\d*\b|Num\b|Real\b|Shaped|PyTree|Key\b|PRNG")


def check_annotations() -> None:
    """Before the first import of `grokjax`."""
    jax.tree_util.register_dataclass = _register
    jaxtyping.jaxtyped = _jaxtyped
    jaxtyping.install_import_hook("grokjax", "shapes.checked")


def _jaxtyped(*, typechecker):
    def decorate(function):
        annotations = getattr(function, "__annotations__", {}).values()
        if not inspect.isfunction(function) or any(ARRAYS.search(str(a)) for a in annotations):
            return JAXTYPED(function, typechecker=typechecker)
        if "<locals>" in function.__qualname__:
            return function
        try:
            typing.get_type_hints(function)
        except Exception:  # a type that is imported for mypy alone: jaxtyping knows to leave it
            return JAXTYPED(function, typechecker=typechecker)
        quick = checked(function)

        @functools.wraps(function)
        def either(*args, **kwargs):
            chosen = function if jaxtyping.config.jaxtyping_disable else quick
            return chosen(*args, **kwargs)

        return either

    return decorate


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
