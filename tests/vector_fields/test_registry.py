"""Every field that a file can name documents its options and is rebuilt from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiflow import VectorField
from equiflow.runtime.options import REQUIRED, options_of
from equiflow.vector_fields import VECTOR_FIELDS
from tests.support.strategies import fields_elsewhere, vector_fields


@pytest.mark.parametrize("field", VECTOR_FIELDS.values(), ids=VECTOR_FIELDS)
def test_every_option_has_a_default_and_a_plain_sentence(field):
    options = options_of(field)
    assert options
    for option in options:
        assert option.default is not REQUIRED, option
        # One sentence, which a config file shows as a comment.
        assert option.text.endswith("."), option
        assert ". " not in option.text.rstrip("."), option
        assert 15 <= len(option.text) <= 200, option


@given(st.one_of(vector_fields(), fields_elsewhere()))
def test_a_field_is_rebuilt_from_its_options(field):
    assert VECTOR_FIELDS[type(field).__name__] is type(field)
    assert list(field.config()) == [option.name for option in options_of(type(field))]
    rebuilt: VectorField = type(field)(field.space, group=field.group, **field.config())
    assert repr(rebuilt) == repr(field)
