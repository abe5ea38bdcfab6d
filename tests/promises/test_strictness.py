"""What holds while tests run: checked shapes, no axis that is added silently, no warnings."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from grokjax.model.lens import found_anywhere
from grokjax.settings import seeds
from grokjax.training.step import StepMetrics


def test_a_shape_other_than_the_annotated_one_is_an_error():
    top, token = jnp.zeros((3, 2, 5), jnp.int32), jnp.zeros(2, jnp.int32)
    assert found_anywhere(top, token).shape == (2,)
    with pytest.raises(TypeCheckError, match="parameter 'token'"):
        found_anywhere(top, token[:1])
    with pytest.raises(TypeCheckError, match="parameter 'top'"):
        found_anywhere(top.astype(jnp.float32), token)


def test_so_is_a_type_where_there_is_no_array():
    assert len(seeds(2)) == 2
    with pytest.raises(BeartypeCallHintParamViolation, match="parameter num="):
        seeds("2")


def test_so_it_is_where_a_dataclass_is_built_by_name():
    with pytest.raises(TypeCheckError):
        StepMetrics(loss=jnp.zeros(3), gradient_norm=jnp.zeros(()))


def test_an_axis_is_never_added_silently():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning):
        warnings.warn("anything", stacklevel=1)
    with pytest.raises(RuntimeWarning):
        np.log(np.zeros(1))
