"""Entities and BIO tags are two spellings of one thing."""

import pytest

from data.tasks.tags import cluener_entities, cluener_label, legalise, to_entities, to_tags

# Spaces, full-width digits, an emoji of two code points, a character beyond the basic plane: one tag for each.
TEXT = "张 三２０在👍🏽𠮷野家 吃饭"
ENTITIES = [("name", 0, 3), ("game", 3, 5), ("company", 6, 11), ("company", 11, 12)]


def test_entities_survive_tags():
    tags, left_out = to_tags(ENTITIES, len(TEXT))
    assert len(tags) == len(TEXT)
    assert to_entities(tags) == ENTITIES
    assert not left_out


def test_tags_survive_entities():
    tags = ["B-a", "B-a", "I-a", "O", "B-b", "B-a", "I-a"]
    assert to_tags(to_entities(tags), len(tags)) == (tags, [])


def test_cluener_label_survives_entities_with_its_inclusive_ends():
    label = {"name": {"张 三": [[0, 2]]}, "company": {"𠮷": [[8, 8], [11, 11]]}}
    chars = list("张 三２０在👍🏽𠮷野家𠮷")
    entities = cluener_entities(label)
    assert ("name", 0, 3) in entities
    assert cluener_label(chars, entities) == label
    assert cluener_label(chars, to_entities(to_tags(entities, len(chars))[0])) == label


def test_an_overlap_keeps_the_longer_entity_and_returns_the_other():
    tags, left_out = to_tags([("a", 0, 2), ("b", 1, 5)], 5)
    assert tags == ["O", "B-b", "I-b", "I-b", "I-b"]
    assert left_out == [("a", 0, 2)]


def test_legalise_begins_an_entity_where_none_of_its_type_goes_on():
    assert legalise(["I-a", "I-a", "I-b", "O", "I-b", "B-a", "I-b"]) == ["B-a", "I-a", "B-b", "O", "B-b", "B-a", "B-b"]


@pytest.mark.parametrize("entity", [("a", -1, 2), ("a", 2, 2), ("a", 1, 6)])
def test_an_entity_outside_the_text_is_an_error(entity):
    with pytest.raises(ValueError, match="within its 5 characters"):
        to_tags([entity], 5)
