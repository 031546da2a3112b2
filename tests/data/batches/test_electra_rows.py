"""Rows for ELECTRA: the references' examples to the last bit, and none of the corpus lost when packed."""

import hashlib
import json
import random

import numpy as np
import pytest
import torch

from common.errors import ArgumentError
from data import create_data
from data.batches.electra_rows import ElectraRows, ExampleBuilder
from data.batches.masking import MaskCollator, TokenMasking
from data.batches.sampling import PlainRows
from data.corpus.arrow_shards import CorpusError, shard_name, write_shard
from data.corpus.manifest import FORMAT, write_manifest
from data.corpus.store import Corpus
from data.tokens.tokenizer_files import tokenizer_hash
from training.pretrained import load_tokenizer

CLS, SEP = 101, 102
DIGESTS = {
    (24, 0): (271, 4828, 156, "afc1ded788503c3e"),
    (24, 1): (272, 4856, 167, "44347d1b05e4b02d"),
    (24, 2): (272, 4842, 162, "59d575bd4a4fd584"),
    (64, 0): (202, 5215, 53, "1e534caa825b79f3"),
    (64, 1): (203, 5222, 58, "dd7a86098c2177f9"),
    (64, 2): (203, 5225, 61, "2a8fc616d30c158f"),
}


def documents():
    """The token ids of each line of 200 documents."""
    return [
        [
            [1000 + (31 * d + 17 * line + k) % 20000 for k in range((3 * d + 5 * line) % 11 + 1)]
            for line in range(d % 7 + 1)
        ]
        for d in range(200)
    ]


def lines_of(texts):
    contents = 0
    for text in texts:
        for number, line in enumerate(text):
            yield contents, len(line), number == 0
            contents += len(line)


def build(length, seed, **options):
    builder = ExampleBuilder(length, seed, **options)
    texts = documents()
    flat = [token for text in texts for line in text for token in line]
    spans = [*builder.add(lines_of(texts)), *builder.end_document()]
    return flat, [[[i for start, size in part for i in range(start, start + size)] for part in row] for row in spans]


@pytest.mark.parametrize("length, seed", DIGESTS)
def test_examples_are_those_of_the_references(length, seed):
    flat, rows = build(length, seed)
    examples = []
    for first, second in rows:
        ids = [CLS, *(flat[i] for i in first), SEP]
        examples.append([len(ids), ids + ([*(flat[i] for i in second), SEP] if second else [])])
    digest = hashlib.sha256(json.dumps(examples, separators=(",", ":")).encode()).hexdigest()[:16]
    tokens = sum(len(ids) for _, ids in examples)
    assert (len(rows), tokens, sum(bool(second) for _, second in rows), digest) == DIGESTS[length, seed]


@pytest.mark.parametrize("length", [8, 24, 64, 128])
def test_packed_examples_hold_every_token_once_and_no_document_meets_another(length):
    flat, rows = build(length, 3, keep_overflow=True)
    assert sorted(i for row in rows for part in row for i in part) == list(range(len(flat)))
    assert max(len(first) + len(second) + (3 if second else 2) for first, second in rows) <= length
    owner = np.repeat(range(200), [sum(map(len, text)) for text in documents()])
    assert all(len({owner[i] for part in row for i in part}) == 1 for row in rows)
    assert all(first for first, _ in rows)


def test_the_reference_throws_tokens_away_and_packed_does_not():
    rng = np.random.default_rng(0)
    kept = {}
    for keep in (False, True):
        rng = np.random.default_rng(0)
        sizes = [np.maximum(1, rng.exponential(40, rng.geometric(1 / 12))).astype(int) for _ in range(1500)]
        starts = np.cumsum(np.concatenate(sizes)) - np.concatenate(sizes)
        begins = [number == 0 for lines in sizes for number in range(len(lines))]
        builder = ExampleBuilder(128, 0, keep_overflow=keep)
        lines = zip(starts.tolist(), np.concatenate(sizes).tolist(), begins, strict=True)
        rows = [*builder.add(lines), *builder.end_document()]
        kept[keep] = sum(size for row in rows for part in row for _, size in part) / sum(map(sum, sizes))
    assert kept[True] == 1 and kept[False] == pytest.approx(0.77, abs=0.01)


@pytest.fixture
def tokenizer(bert_folder):
    return load_tokenizer(str(bert_folder()), "--tokenizer_name")


@pytest.fixture
def corpus(tmp_path, tokenizer):
    """(rows of token texts, documents, rows in the first of two shards, settings) -> a Corpus."""

    def make(rows, numbers, first_shard, **settings):
        ids = [tokenizer.convert_tokens_to_ids(row) for row in rows]
        shards = []
        for number, part in enumerate((slice(0, first_shard), slice(first_shard, None))):
            flat = np.concatenate(ids[part])
            marks = np.array([token.startswith("##") for row in rows[part] for token in row], np.uint8)
            path = tmp_path / shard_name(number)
            lengths = np.array([len(row) for row in ids[part]])
            write_shard(path, flat.astype(np.uint16), marks, lengths, np.array(numbers[part]), {})
            shards.append({"file": path.name, "bytes": path.stat().st_size})
        maker = {"name": "tiny", "size": len(tokenizer), "hash": tokenizer_hash(tokenizer.backend_tokenizer)}
        manifest = {"format": FORMAT, "complete": True, "tokenizer": maker, "shards": shards, "settings": settings}
        write_manifest(tmp_path, manifest)
        return Corpus(tmp_path)

    return make


def frame(text):
    return ["[CLS]", *text, "[SEP]"]


def make(source, tokenizer, numbers, kind="packed", length=16, seed=0):
    """Rows as lists of tokens; checks what every row must be."""
    electra = ElectraRows(PlainRows(source, numbers), kind, length, tokenizer.backend_tokenizer, seed)
    rows = electra.rows(range(len(electra)))
    tokens = [tokenizer.convert_ids_to_tokens(row["input_ids"]) for row in rows]
    for number, (row, text) in enumerate(zip(rows, tokens, strict=True)):
        assert row["index"] == number and row["continuation"].tolist() == [t.startswith("##") for t in text]
        assert len(text) == electra.lengths[number] <= length
        assert text[0] == "[CLS]" and text[-1] == text[row["first_segment"] - 1] == "[SEP]"
        assert text.count("[SEP]") == 1 + (row["first_segment"] < len(text))
    return tokens


def contents(rows):
    return sorted(token for row in rows for token in row if token not in ("[CLS]", "[SEP]"))


ROWS = [frame("天气好。我爱"), frame(["caf", "##fe", "。", "他", "在"]), frame("北京。清华"), frame("长江!”和")]


def test_rows_are_whole_sentences_of_one_document_across_corpus_rows_and_shards(corpus, tokenizer):
    source = corpus(ROWS, [0, 0, 0, 4], 1)
    rows = make(source, tokenizer, range(4))
    assert contents(rows) == contents(ROWS)
    assert [row for row in rows if "江" in row or "和" in row] == [rows[-1]] and len(contents(rows[-1:])) == 5
    assert contents(make(source, tokenizer, range(4), "reference", length=8)) != contents(ROWS)
    # A corpus row that is left out, as a held-out document, ends the document before it.
    rows = make(source, tokenizer, [0, 2, 3])
    assert contents(rows) == contents([ROWS[0], ROWS[2], ROWS[3]])
    assert not any("爱" in row and "北" in row for row in rows)


def test_rows_cut_anywhere_from_one_stream_give_their_documents(corpus, tokenizer):
    stream = [*frame("天气好。我爱"), *frame("他在北京。清华"), *frame("长江!”和")]
    rows = [stream[i : i + 7] for i in range(0, len(stream), 7)]
    rows = make(corpus(rows, range(len(rows)), 2, line_by_line=False), tokenizer, range(len(rows)))
    assert contents(rows) == contents([stream])
    assert ["[CLS]", *"长江!”和", "[SEP]"] in [[t for t in row if t != "[SEP]"] + ["[SEP]"] for row in rows]
    assert not any("爱" in row and "他" in row for row in rows)


def reference_rows(texts, tokenizer, length, seed, least, brackets):
    """Rows as the spec's list of steps has them: from the lines of texts, one step after the other."""
    rng, rows, lines, size, target = random.Random(seed), [], [], 0, length

    def emit():
        nonlocal lines, size, target
        first_target = 100_000 if rng.random() < 0.1 else (target - 3) // 2
        a, b = [], []
        for line in lines:
            into_a = not a or len(a) + len(line) < first_target
            into_a = into_a or (not b and len(a) < first_target and rng.random() < 0.5)
            (a if into_a else b).extend(line)
        a = a[: length - 2]
        b = b[: max(0, length - len(a) - 3)]
        lines, size = [], 0
        target = rng.randint(5, length) if rng.random() < 0.05 else length
        rows.append(["[CLS]", *a, "[SEP]", *([*b, "[SEP]"] if b else [])])

    for text in texts:
        for line in text.split("\n"):
            if not line.strip() or len(line) < least:
                continue
            line = line.strip().replace("\n", " ")
            lines.append(tokenizer.tokenize(line if brackets else line.replace("()", "")))
            size += len(lines[-1])
            if size >= target:
                emit()
        if size:
            emit()
    return rows


@pytest.mark.parametrize("cleaning", [[], ["--min_line_chars", "12", "--drop_brackets"]])
def test_rows_of_a_corpus_that_keeps_lines_are_the_references_own(tmp_path, bert_folder, tokenizer, cleaning):
    rng = random.Random(0)
    parts = ["天气", "研究。他说", "北京！", "cafe", "()", " () ", "(在)", "1 2", "。", "长江", "\u2028", ""]
    texts = [
        "\n".join("".join(rng.choices(parts, k=rng.choice([0, 1, 4, 12, 40]))) for _ in range(rng.randint(1, 9)))
        for _ in range(150)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    flags = ["--train_file", str(tmp_path / "texts.jsonl"), "--tokenizer_name", str(bert_folder())]
    flags += ["--output_dir", str(tmp_path / "corpus"), "--line_by_line", "--keep_lines", "--max_seq_length", "16"]
    create_data.main([*flags, "--preprocessing_num_workers", "1", *cleaning])
    corpus = Corpus(tmp_path / "corpus")
    expected = reference_rows(texts, tokenizer, 32, 5, 12 if cleaning else 0, not cleaning)
    assert make(corpus, tokenizer, range(len(corpus)), "reference", 32, 5) == expected
    written = [line for text in texts for line in text.split("\n") if len(line) >= (12 if cleaning else 0)]
    kept = [tokenizer.tokenize(line.replace("()", "") if cleaning else line) for line in written]
    assert [corpus.rows([i])[0]["input_ids"].tolist() for i in range(len(corpus))] == [
        tokenizer.convert_tokens_to_ids(frame(line)) for line in kept if line
    ]
    counts = corpus.manifest["counts"]
    assert (
        counts["documents"] - counts["dropped_documents"] == len(set(corpus.documents.tolist())) < counts["documents"]
    )
    assert counts["documents"] == len(texts)


def test_lines_are_kept_in_rows_of_their_own_only(tmp_path, bert_folder):
    flags = [
        "--train_file",
        __file__,
        "--tokenizer_name",
        str(bert_folder()),
        "--output_dir",
        str(tmp_path / "corpus"),
    ]
    with pytest.raises(ArgumentError, match=r"--keep_lines needs .*; add --line_by_line true"):
        create_data.main([*flags, "--keep_lines", "true"])
    with pytest.raises(ArgumentError, match="--min_line_chars must be at least 1, got 0"):
        create_data.main([*flags, "--min_line_chars", "0"])


def test_bad_lengths_and_tokenizers_are_refused(corpus, tokenizer):
    with pytest.raises(CorpusError, match="--max_seq_length must be at least 8, got 7"):
        make(corpus(ROWS, [0, 0, 0, 4], 1), tokenizer, range(4), length=7)


def test_type_ids_tell_the_segments_apart(corpus, tokenizer):
    electra = ElectraRows(
        PlainRows(corpus(ROWS, [0, 0, 0, 4], 1), np.arange(4)), "packed", 16, tokenizer.backend_tokenizer, 0
    )
    rows = [{"epoch": 0, **row} for row in electra.rows(range(len(electra)))]
    masking = TokenMasking(len(tokenizer), tokenizer.mask_token_id, tuple(tokenizer.all_special_ids))
    batch = MaskCollator(masking, tokenizer.pad_token_id)(rows)
    types, real = batch["token_type_ids"], batch["attention_mask"]
    assert types.dtype == torch.int64 and types.shape == real.shape and (types[real == 0] == 0).all()
    for row, segments, kept in zip(rows, types, real, strict=True):
        assert segments[kept == 1].tolist() == [int(i >= row["first_segment"]) for i in range(len(row["input_ids"]))]
