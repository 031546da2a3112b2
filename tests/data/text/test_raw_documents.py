"""Documents of a file, however it is cut into units."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.text import raw_documents


def original(raw, spliter=""):
    """Spec of the program this one replaces: lines until one that strips to `spliter`, joined with their newlines."""
    documents, lines = [], []
    for line in re.findall(r"[^\n]*\n|[^\n]+", raw.decode().replace("\r\n", "\n")):
        if line.strip() == spliter:
            documents, lines = [*documents, "".join(lines)], []
        else:
            lines.append(line)
    return [document for document in [*documents, "".join(lines)] if len(document) > 3]


lines = st.lists(
    st.sampled_from(
        ["天地玄黄\n", "\n", "\n\n", " \u3000\n", "\x1c\n", "\r\n", "a", "。\u2028\n", "---\n", " ---\u3000\n", "é"]
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(lines.map("".join), st.sampled_from(["", "---"]), st.sampled_from([1, 2, 3, 7, 1000]))
def test_documents_are_those_of_the_original_however_a_file_is_cut(tmp_path_factory, text, spliter, unit):
    path = tmp_path_factory.mktemp("c") / "x"
    path.write_bytes(text.encode())
    layout = raw_documents.Layout(spliter)
    documents = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_documents, "UNIT_BYTES", unit)
        for piece in raw_documents.split_units([path]):
            documents += [layout.text(raw, path, offset) for offset, raw in layout.raw_documents(piece)]
    assert [document for document in documents if len(document) > 3] == original(text.encode(), spliter)


@settings(max_examples=100, deadline=None)
@given(lines.map("".join), st.sampled_from([1, 2, 3, 7, 1000]))
def test_every_line_is_a_document_however_a_file_is_cut(tmp_path_factory, text, unit):
    path = tmp_path_factory.mktemp("c") / "x"
    path.write_bytes(text.encode())
    layout = raw_documents.Layout("line")
    documents = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_documents, "UNIT_BYTES", unit)
        for piece in raw_documents.split_units([path]):
            documents += [layout.text(raw, path, offset) for offset, raw in layout.raw_documents(piece)]
    assert documents == [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
