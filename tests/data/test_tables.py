"""Tables in text files keep every value as it is written, or are refused where they go wrong."""

import pytest

from tests.data.preparing import create, written


@pytest.mark.parametrize("name", ["in.tsv", "IN.TAB"])
def test_a_tab_separated_file_is_never_quoted(letters, tmp_path, name):
    rows = ["zero", '"never closed. one', "two", 'the 5" screen', '"whole"', "NA", "7", ""]
    lines = [f"{number}\t{row}" for number, row in enumerate(rows)]
    file = written(tmp_path / name, "\ufeffid\ttext\r\n" + "\r\n".join(lines))
    rows = create(letters, tmp_path / "o", "--train_file", file, "--cache_dir", tmp_path / "c")
    assert rows == ["zero", '" never closed . one', "two", 'the 5 " screen', '" whole "', "na", "7"]
    assert not list((tmp_path / "c").iterdir())


def test_a_comma_separated_file_keeps_every_text_as_it_is_written(letters, tmp_path):
    long = "ab " * 60_000
    file = written(tmp_path / "in.csv", f'text,id\n"a ""q""\nb, c",0\nnull,1\n2020.01,2\n\n{long},3\n')
    rows = create(letters, tmp_path / "o", "--train_file", file, "--max_seq_length", 200_000)
    assert rows == ['a " q " b , c', "null", "2020 . 01", long.strip()]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", 'text\none\n"two\nthree\n', r"a\.csv:3: must be a row .* got unexpected end of data"),
        ("a.csv", 'text,id\n"one" said,1\n', r"a\.csv:2: must be a row .* expected after '\"'"),
        ("a.csv", "text,id\none,1\nhello, two,2\n", r"a\.csv:3: must have 2 fields, as many as the header, got 3"),
        ("a.csv", "text,id\none\n", r"a\.csv:2: must have 2 fields"),
        ("a.csv", "id\ttext\n1\tone\n", "is it tab-separated"),
        ("a.tsv", "id,text\n1,one\n", "is it comma-separated"),
        ("a.tsv", "id\ttext\n1\tone\tmore\n", r"a\.tsv:2: must have 2 fields"),
        ("a.tsv", "id\ttext\n1\tone\n2\n", r"a\.tsv:3: must have 2 fields"),
        ("a.tsv", b"text\none\n\xff\n", r"a\.tsv:3: must be UTF-8"),
        ("a.csv", "text,text\none,1\n", "must have the column 'text' once, got it twice"),
        ("a.json", '[{"text": "a"}, {"text": 3}]', "the value of 'text' in item 2 must be a string, got int"),
        ("a.json", '[{"text": "a"}, "b"]', "item 2 must be an object, got str"),
        ("a.json", '{\n"data": [{"text": "a"}]}', "the value of 'data' in item 1 must be a string, got list"),
        ("a.json", "[]", "must be an array of objects"),
        ("a.json", "[" * 100_000, "must be an array of objects, got maximum recursion depth"),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', r"a\.jsonl:1: must have the key 'text' once"),
        ("a.csv", "id,body\n1,one\n2,two\n", "--text_column must name a column of text, got the numbers of 'id'"),
        (
            "a.jsonl",
            '{"id": "1", "body": "one"}\n',
            "--text_column must name a column of text, got the numbers of 'id'",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_where_it_goes_wrong(letters, tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        create(letters, tmp_path / "o", "--train_file", written(tmp_path / name, content), "--cache_dir", tmp_path)
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").glob("*.arrow"))
