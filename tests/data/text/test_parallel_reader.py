"""What is left out of raw text is named or counted, the same for any number of workers."""

import pytest

from data.files import DataError
from tests.data.json_corpora import closing_line, make_corpus, read, run


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_input_is_named_or_counted(tmp_path, small_pieces, capsys, workers):
    good = "可以读的一篇文章，够长。\n\n" * 100
    bad = good.encode() + "前一行\n坏".encode() + b"\xff\xe4\n\n" + good.encode()
    (tmp_path / "x").write_bytes(bad)
    options = {"input_path": tmp_path / "x", "output_path": tmp_path / "o", "workers": workers}
    with pytest.raises(DataError, match=r"x:202: must be utf-8"):
        run(**options)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    run(**options, on_error="skip")
    assert closing_line(capsys) == [200, 200 * 13, 0, 0, 0, 1]
    (tmp_path / "x").write_text('{"text": "一二三四五六七八九十一"}\n' * 80 + '{"content": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"x:81: .*'text'"):
        run(**options, json_field="text")
    assert len(read(tmp_path / "o.jsonl")) == 200  # the output of the earlier run stands
    run(**options, json_field="text", on_error="skip")
    assert closing_line(capsys) == [80, 80 * 11, 0, 0, 0, 1]


def test_exclusion_does_not_depend_on_workers(tmp_path, small_pieces, capsys):
    texts = make_corpus(tmp_path / "in")
    (tmp_path / "dev.tsv").write_text(texts[7].replace("\n", ""), encoding="utf-8")
    for workers in (1, 2):
        options = {"input_path": tmp_path / "in", "output_path": tmp_path / "o", "workers": workers}
        run("--no-shuffle", **options, exclude=f"{tmp_path / 'dev.tsv'},{tmp_path / 'dev.tsv'}")
        assert read(tmp_path / "o.jsonl") == [text for text in texts if text != texts[7]]
        assert closing_line(capsys)[3] == texts.count(texts[7])
