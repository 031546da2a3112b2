"""Fixtures of the tests of models."""

import pytest

from tests.models.sentencepiece_pairs import load_pair


@pytest.fixture(scope="module")
def pair(small_cog_file):
    """The tokenizer and sentencepiece itself on one small model."""
    return load_pair(small_cog_file)
