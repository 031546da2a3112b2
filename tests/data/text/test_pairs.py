"""Pairs of source and reference: translations, columns of any name, tables, and what is refused by name."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from data.text.pairs import Pairs, read_pairs

ROWS = [("Good day", "Guten Tag"), ("Yes", "Ja")]


@pytest.fixture
def written(tmp_path):
    """(records, name) -> file of JSON lines"""

    def write(records, name="pairs.jsonl"):
        lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
        (tmp_path / name).write_text("\n".join(lines) + "\n\n", encoding="utf-8")
        return tmp_path / name

    return write


def test_translations_go_from_the_first_language_to_the_second_or_as_asked(written):
    records = [{"translation": {"en": english, "de": german}, "id": 1} for english, german in ROWS]
    file = written(records, "sample.json")
    forth, back = [list(column) for column in zip(*ROWS, strict=True)]
    assert read_pairs(file) == read_pairs(file, "en") == read_pairs(file, target="de") == Pairs(forth, back, "de")
    assert read_pairs(file, "de", "en") == read_pairs(file, "de") == Pairs(back, forth, "en")


@pytest.mark.parametrize("names", [("source", "target"), ("document", "summary"), ("prompt", "text"), ("zh", "en")])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_columns_are_the_usual_ones_or_the_only_two(written, tmp_path, names, kind):
    more = {} if names == ("zh", "en") else {"id": "7"}
    records = [dict(zip(names, row, strict=True)) | more for row in ROWS]
    file = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        file = written(records)
    elif kind == "csv":
        written([",".join(records[0]), *(",".join(record.values()) for record in records)], file.name)
    else:
        pq.write_table(pa.Table.from_pylist(records), file)
    forth, back = [list(column) for column in zip(*ROWS, strict=True)]
    assert read_pairs(file) == Pairs(forth, back)
    assert read_pairs(file, names[1], names[0]) == Pairs(back, forth)


@pytest.mark.parametrize(
    "records, options, line",
    [
        (["a text"], {}, "pairs.jsonl:1: must be one JSON object"),
        ([{"a": "b", "c": "d", "e": "f"}], {}, "must name two of a, c, e (FILE:1), got none and none"),
        ([{"a": "b", "c": "d"}], {"source": "x"}, "must name two of a, c (FILE:1), got x and none"),
        ([{"a": "b", "c": "d"}], {"source": "a", "target": "a"}, "must name two of a, c (FILE:1), got a and a"),
        ([{"source": "b", "target": "d"}, {"source": "b"}], {}, "FILE:2: must be a JSON object with the key 'target'"),
        ([{"source": "b", "target": " "}], {}, "FILE:1: must have a text as 'target', got ' '"),
        ([{"source": "b", "target": 3}], {}, "FILE:1: the value of 'target' must be a string, got int"),
        ([{"translation": {"en": "b", "de": "c"}}, {"en": "b"}], {}, "FILE:2: must have an object as 'translation'"),
        ([{"translation": {"en": "b", "de": "c"}}, {"translation": {"en": "b"}}], {}, "FILE:2: must be a JSON object"),
        ([{"translation": {"en": "b", "de": "c"}}], {"source": "fr"}, "must name two of en, de (FILE:1), got fr"),
        (["[1]"], {}, "must name two of no columns"),
        ([], {}, "must name two of no columns"),
    ],
)
def test_what_is_no_pair_is_named(written, records, options, line):
    file = written(records)
    with pytest.raises(UserError) as caught:
        read_pairs(file, **options)
    assert line.replace("FILE", str(file)) in str(caught.value) and "\n" not in str(caught.value)


def test_text_and_no_file_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text\n")
    with pytest.raises(UserError, match="--references needs JSON lines or a table as --input_file"):
        read_pairs(tmp_path / "a.txt")
    with pytest.raises(UserError, match="--input_file must name a file"):
        read_pairs(tmp_path / "b.jsonl")
