"""A corpus folder belongs to one run at a time, and to the settings that it was begun with."""

import json
from pathlib import Path

import pytest

from data.corpus import output_folder
from data.corpus.arrow_shards import CorpusError
from data.corpus.output_folder import locked_output
from tests.chinese_corpora import documents, prepare, write_jsonl
from tests.data.preparing import contents


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max_seq_length", "100"),
        ("--min_chars", "3"),
        ("--segmenter", "whitespace"),
        ("--reference_files", None),
        ("--user_dict", "words.txt"),
        ("--json_key", "content"),
        ("--model_name", "cased"),
        ("--input_path", "changed"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_changed_settings_are_refused_by_their_flag(vocabulary, bert_folder, tmp_path, flag, value, finished):
    source, out = write_jsonl(tmp_path / "in.jsonl", documents(5)), tmp_path / "out"
    prepare(vocabulary, source, out)
    if not finished:
        manifest = json.loads((out / "manifest.json").read_text())
        (out / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    before = contents(out)
    if flag == "--model_name":
        value = str(bert_folder(do_lower_case=False))
    elif flag == "--user_dict":
        value = str(tmp_path / "words.txt")
        Path(value).write_text("云计算\n", encoding="utf-8")
    elif flag == "--input_path":  # same name, same size, other content
        text = source.read_text(encoding="utf-8")
        source.write_text(text.replace("研究", "生命"), encoding="utf-8")
        value = str(source)
    name = "--tokenizer_name" if flag == "--model_name" else flag
    with pytest.raises(CorpusError, match=f"^{name} must be the same as when"):
        prepare(vocabulary, source, out, flag, *([value] if value else []))
    assert contents(out) == before


def test_a_folder_with_other_things_is_left_alone(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ["我"])
    (tmp_path / ".theirs.partial").write_text("x")
    with pytest.raises(CorpusError, match="--output_dir must be new, empty or a corpus"):
        prepare(vocabulary, source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".theirs.partial", "in.jsonl"]
    with pytest.raises(CorpusError, match="--output_dir must name a folder"):
        prepare(vocabulary, source, source)


def test_two_runs_never_share_a_folder(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "_LOCK_SECONDS", 0.1)
    source = write_jsonl(tmp_path / "in.jsonl", ["我"])
    with (
        locked_output(tmp_path / "out"),
        pytest.raises(CorpusError, match="--output_dir must be free"),
    ):
        prepare(vocabulary, source, tmp_path / "out")
