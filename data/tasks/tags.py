"""Entities of a text as BIO tags and back, and in the form that CLUENER's files and submissions hold.

An entity is (type, first, end): `end` is the position after its last character. CLUENER's own ends are inclusive
(README of the CLUENER2020 repository); only `cluener_entities` and `cluener_label` know that. Letters: N characters.
"""

from collections.abc import Iterable, Sequence

from common.errors import UserError

Entity = tuple[str, int, int]


def to_tags(entities: Iterable[Entity], length: int) -> tuple[list[str], list[Entity]]:
    """Return the BIO tags of `length` characters and the entities that found no place.

    Of two entities that overlap the longer one stays (the earlier one of two equally long ones): BIO holds one tag
    per character. ValueError for an entity outside of the text.
    """
    tags, left_out = ["O"] * length, []
    for kind, first, end in sorted(entities, key=lambda entity: (entity[1] - entity[2], entity[1], entity[0])):
        if not 0 <= first < end <= length:
            raise UserError(f"an entity must lie within its {length} characters, got {kind} at {first}:{end}")
        if any(tag != "O" for tag in tags[first:end]):
            left_out.append((kind, first, end))
        else:
            tags[first:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - first - 1)
    return tags, left_out


def legalise(tags: Sequence[str]) -> list[str]:
    """Write B- for every I- that continues no entity of its own type, so that it begins one."""
    legal = []
    for tag in tags:
        follows = legal and legal[-1][1:] == tag[1:]  # the same type behind B- or I-; "O" has none
        legal.append(tag if not tag.startswith("I-") or follows else f"B-{tag[2:]}")
    return legal


def to_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of BIO tags in text order; tags need not be legal."""
    entities: list[Entity] = []
    for position, tag in enumerate(legalise(tags)):
        if tag.startswith("B-"):
            entities.append((tag[2:], position, position + 1))
        elif tag.startswith("I-"):
            kind, first, _ = entities[-1]
            entities[-1] = (kind, first, position + 1)
    return entities


def cluener_entities(label: dict[str, dict[str, list[list[int]]]]) -> list[Entity]:
    """Entities of a CLUENER label {type: {string: [[first, last], ...]}}."""
    return [
        (kind, first, last + 1)
        for kind, by_text in label.items()
        for spans in by_text.values()
        for first, last in spans
    ]


def cluener_label(chars: Sequence[str], entities: Iterable[Entity]) -> dict[str, dict[str, list[list[int]]]]:
    """The inverse of `cluener_entities`; `chars` are the characters (or words) that the entities count."""
    label: dict[str, dict[str, list[list[int]]]] = {}
    for kind, first, end in entities:
        spans = label.setdefault(kind, {}).setdefault("".join(chars[first:end]), [])
        spans.append([first, end - 1])
    return label
