"""The files of the original run_chinese_ref.py, beside a corpus."""

import json

import datasets

from data.tokens.tokenizer_files import load_backend
from tests.chinese_corpora import documents, prepare, write_jsonl


def test_reference_files_are_those_of_the_original(vocabulary, tmp_path, small_units):
    texts = [*documents(50), "研究生命\n起源\r。café"]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    corpus = prepare(vocabulary, source, tmp_path / "out", "--reference_files", "--max_seq_length", "30")
    texts = (tmp_path / "out" / "reftext.txt").read_text(encoding="utf-8").split("\n")[:-1]
    ids = [json.loads(line) for line in (tmp_path / "out" / "refids.txt").read_text().split("\n")[:-1]]
    dataset = datasets.load_from_disk(str(tmp_path / "out" / "reference"))
    assert (list(dataset["text"]), list(dataset["chinese_ref"])) == (texts, ids)
    backend = load_backend(str(vocabulary), None)
    rows = corpus.rows(range(len(corpus)))
    assert len(rows) == len(texts)
    for row, text, positions in zip(rows, texts, ids, strict=True):
        assert backend.encode(text).ids == row["input_ids"].tolist()
        pieces = [
            i for i, token in enumerate(row["input_ids"].tolist()) if backend.id_to_token(token).startswith("##")
        ]
        assert sorted({*positions, *pieces}) == row["continuation"].nonzero()[0].tolist()
    assert texts[-1] == "研究生命 起源 。café" and ids[-1] == [2, 4, 6]
