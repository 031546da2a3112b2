"""The corpus of the command line: group_texts' rows with nothing dropped, from any input, tokenizer and workers."""

import csv
import json
import shutil
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import sentencepiece
from tokenizers import ByteLevelBPETokenizer, SentencePieceBPETokenizer, SentencePieceUnigramTokenizer
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import AutoTokenizer

from common.errors import ArgumentError
from data import create_data
from data.corpus import sources
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import Corpus
from data.files import DataError
from data.tokens.tokenizer_files import load_backend
from tests.data.english_corpora import TEXTS, prepare, write_jsonl
from tests.data.preparing import contents
from training.pretrained import load_tokenizer

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, bert_folder):
    """name -> folder: WordPiece, byte-level BPE, and sentencepiece models trained here, each with its own frame."""
    folder = tmp_path_factory.mktemp("tokenizers")
    folders = {"wordpiece": bert_folder()}
    options = {"vocab_size": 400, "special_tokens": SPECIALS, "show_progress": False}
    bpe, prefixed = ByteLevelBPETokenizer(), ByteLevelBPETokenizer(add_prefix_space=True)
    unigram, merges = SentencePieceUnigramTokenizer(), SentencePieceBPETokenizer()
    for trained, more in ((bpe, {}), (prefixed, {}), (merges, {}), (unigram, {"unk_token": "<unk>"})):
        trained.train_from_iterator(TEXTS, **options, **more)
    for trained in (bpe, unigram):
        trained._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    merges._tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])  # as T5's
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(names, SPECIALS, strict=True))}
    for name, trained in (("bpe", bpe), ("unframed bpe", prefixed), ("unigram", unigram), ("sentencepiece", merges)):
        folders[name] = folder / name
        folders[name].mkdir()
        trained.save(str(folders[name] / "tokenizer.json"))
        (folders[name] / "tokenizer_config.json").write_text(json.dumps(settings))
    folders["spm file"] = folder / "spm file"
    folders["spm file"].mkdir()
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    prefix = folders["spm file"] / "sentencepiece.bpe"
    pieces = {"bos_piece": "<s>", "pad_piece": "<pad>", "eos_piece": "</s>", "unk_piece": "<unk>"}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"),
        model_prefix=str(prefix),
        vocab_size=70,
        minloglevel=2,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        **pieces,
    )
    (folders["spm file"] / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    return folders


KINDS = ["wordpiece", "bpe", "unframed bpe", "unigram", "sentencepiece", "spm file"]
EVERY = pytest.mark.parametrize("kind", KINDS)


def backend_of(folder):
    return load_backend(str(folder), lambda name: load_tokenizer(name, "--tokenizer_name").backend_tokenizer)


def rows_of(corpus):
    return [row["input_ids"].tolist() for row in corpus.rows(range(len(corpus)))]


def group_texts(folder, texts, length):
    """What run_mlm.py of transformers writes for one batch, without dropping the end."""
    tokenizer = AutoTokenizer.from_pretrained(folder, **({} if list(Path(folder).glob("*.json")) else {"use_fast": 1}))
    flat = list(chain.from_iterable(tokenizer(texts)["input_ids"]))
    return [flat[first : first + length] for first in range(0, len(flat), length)]


# Rows


@EVERY
def test_rows_are_those_of_group_texts_with_the_remainder(tokenizers, tmp_path, small_tables, kind):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    corpus = prepare(tokenizers[kind], tmp_path / "out", "--train_file", source, "--max_seq_length", 32)
    assert len(corpus.manifest["shards"]) > 3 and corpus.is_grouped
    backend = backend_of(tokenizers[kind])
    flat = list(chain.from_iterable(backend.encode(text).ids for text in TEXTS))
    assert rows_of(corpus) == [flat[first : first + 32] for first in range(0, len(flat), 32)]
    counts = corpus.manifest["counts"]
    assert (counts["documents"], counts["blocks"], counts["dropped_tokens"]) == (120, len(corpus), 0)
    assert counts["tokens"] == sum(len(backend.encode(text, add_special_tokens=False).ids) for text in TEXTS)
    saved = datasets.load_from_disk(str(tmp_path / "out"))
    assert [list(row) for row in saved["input_ids"]] == rows_of(corpus)


def test_the_usual_way_gives_the_same_rows(tokenizers, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    corpus = prepare(tokenizers["bpe"], tmp_path / "out", "--train_file", source, "--max_seq_length", 32)
    assert rows_of(corpus) == group_texts(tokenizers["bpe"], TEXTS, 32)


@EVERY
def test_line_by_line_gives_each_document_rows_of_its_own(tokenizers, tmp_path, kind):
    texts = [*TEXTS[:20], "", "  "]
    source = tmp_path / "in.txt"
    source.write_bytes("\r\n".join(text.replace("\u2028", "") for text in texts).encode())
    flags = ("--train_file", source, "--line_by_line", "true", "--max_seq_length", 24)
    corpus = prepare(tokenizers[kind], tmp_path / "out", *flags)
    backend = backend_of(tokenizers[kind])
    tokens_of = {}
    frame = [len(side) for side in create_data.FastTokenizer(backend).frame]
    for row, document in zip(rows_of(corpus), corpus.documents.tolist(), strict=True):
        assert len(row) <= 24
        tokens_of.setdefault(document, []).extend(row[frame[0] : len(row) - frame[1]])
    assert not corpus.is_grouped
    expected = [backend.encode(text.replace("\u2028", ""), add_special_tokens=False).ids for text in texts[:20]]
    assert tokens_of == dict(enumerate(expected))


@pytest.mark.parametrize(
    "value, grouped", [("False", True), ("false", True), ("0", True), ("True", False), (None, False)]
)
def test_line_by_line_is_a_real_boolean(tokenizers, tmp_path, value, grouped):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS[:3])
    flags = ["--line_by_line", *([value] if value else [])]
    assert prepare(tokenizers["bpe"], tmp_path / "out", "--train_file", source, *flags).is_grouped is grouped


@EVERY
def test_words_are_marked_in_any_language(tokenizers, tmp_path, kind):
    source = write_jsonl(tmp_path / "in.jsonl", ["The quickest brown foxes, doesn't 京東"])
    corpus = prepare(tokenizers[kind], tmp_path / "out", "--train_file", source)
    (row,) = corpus.rows([0])
    backend = backend_of(tokenizers[kind])
    words, pieces = [], []
    for token, mark in zip(row["input_ids"].tolist(), row["continuation"].tolist(), strict=True):
        if not mark:
            pieces.append([])
        pieces[-1].append(token)
    words = [backend.decode(ids).replace(" ##", "").replace("##", "").strip().lower() for ids in pieces]
    words = [word for word in words if word and word != "[unk]"]
    assert words[:5] == ["the", "quickest", "brown", "foxes", ","]
    if kind in ("bpe", "unframed bpe", "sentencepiece"):  # the others know no such character
        assert words[-2:] == ["京", "東"]


def test_words_of_chinese_come_from_rjieba_when_asked(tokenizers, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ["我爱北京天安门"])
    flags = ("--train_file", source, "--segmenter", "rjieba")
    (row,) = prepare(tokenizers["wordpiece"], tmp_path / "out", *flags).rows([0])
    assert row["continuation"].tolist() == [0, 0, 0, 0, 1, 0, 1, 1, 0]


# Shards and resumption


def test_any_number_of_workers_writes_the_same_bytes(tokenizers, tmp_path, small_tables):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    for workers in (1, 3):
        flags = ("--train_file", source, "--preprocessing_num_workers", workers, "--validation_split", "0.2")
        prepare(tokenizers["bpe"], tmp_path / str(workers), *flags)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--max_seq_length", "99"], "--max_seq_length"),
        (["--line_by_line", "true"], "--line_by_line"),
        (["--segmenter", "whitespace"], "--segmenter"),
        (["--tokenizer_name", "bpe"], "--tokenizer_name"),
        (["--train_file", "other"], "--train_file"),
    ],
)
def test_changed_settings_are_refused_by_their_flag(tokenizers, tmp_path, flags, changed):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS[:5])
    other = write_jsonl(tmp_path / "other.jsonl", TEXTS[:6])
    prepare(tokenizers["wordpiece"], tmp_path / "out", "--train_file", source)
    flags = [{"bpe": tokenizers["bpe"], "other": other}.get(flag, flag) for flag in flags]
    with pytest.raises(CorpusError, match=f"^{changed} must be the same as when"):
        prepare(tokenizers["wordpiece"], tmp_path / "out", "--train_file", source, *flags)


def test_held_out_documents_lie_in_a_corpus_of_their_own(tokenizers, tmp_path):
    flags = ("--train_file", write_jsonl(tmp_path / "in.jsonl", TEXTS), "--line_by_line", "true")
    train = prepare(tokenizers["bpe"], tmp_path / "out", *flags, "--validation_split", "0.25")
    held_out = Corpus(tmp_path / "out/validation")
    numbers = [set(corpus.documents.tolist()) for corpus in (train, held_out)]
    assert not numbers[0] & numbers[1] and numbers[0] | numbers[1] == set(range(120))
    assert 15 < len(numbers[1]) < 45
    shutil.rmtree(tmp_path / "out")
    prepare(tokenizers["unigram"], tmp_path / "out", *flags, "--validation_split", "0.25")
    assert set(Corpus(tmp_path / "out/validation").documents.tolist()) == numbers[1]


# Inputs


def write_inputs(folder):
    """The same documents in every kind of input: flags of each."""
    texts = [text.replace("\u2028", "x").replace("\t", " ") for text in TEXTS[:30]]
    folder.mkdir()
    rows = [{"title": f"t{number}", "text": text} for number, text in enumerate(texts)]
    write_jsonl(folder / "lines.jsonl", texts)
    write_jsonl(folder / "lines.json", texts)
    (folder / "plain.txt").write_text("\n".join(texts), encoding="utf-8")
    (folder / "list.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for name, separator in (("table.csv", ","), ("table.tsv", "\t")):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["title", "text"], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "table.parquet", row_group_size=7)
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(folder / "saved", num_shards=2)
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(folder / "splits")
    (folder / "files" / "sub").mkdir(parents=True)
    write_jsonl(folder / "files" / "sub" / "train-0.jsonl", texts[:10])
    write_jsonl(folder / "files" / "train-1.jsonl", texts[10:])
    write_jsonl(folder / "files" / "validation.jsonl", ["not this"])
    files = ["lines.jsonl", "lines.json", "plain.txt", "list.json", "table.csv", "table.tsv", "table.parquet"]
    flags = [["--train_file", folder / name] for name in files]
    flags += [["--dataset_name", folder / name] for name in ("saved", "splits", "files")]
    return [*flags, ["--dataset_name", folder, "--dataset_config_name", "files"]]


def test_every_kind_of_input_gives_the_same_rows(tokenizers, tmp_path, small_tables):
    corpora = []
    for number, flags in enumerate(write_inputs(tmp_path / "inputs")):
        more = ("--cache_dir", tmp_path / "cache", "--max_seq_length", 32)
        corpora.append(rows_of(prepare(tokenizers["wordpiece"], tmp_path / f"out{number}", *flags, *more)))
    order = "sub"  # files are taken in the order of their paths
    assert all(sorted(rows) == sorted(corpora[0]) for rows in corpora[:-2]) and all(
        rows == corpora[0] for rows in corpora[:-2]
    )
    assert corpora[-2] == corpora[-1] == corpora[0], order


def test_columns_are_chosen_as_the_original_does(tokenizers, tmp_path):
    lines = [{"title": "a b c", "body": "d e f"}, {"title": "a", "body": "d"}]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    first = prepare(tokenizers["wordpiece"], tmp_path / "first", "--train_file", source)
    other = prepare(tokenizers["wordpiece"], tmp_path / "other", "--train_file", source, "--text_column", "body")
    backend = load_backend(str(tokenizers["wordpiece"]), None)
    assert rows_of(first) == [[*backend.encode("a b c").ids, *backend.encode("a").ids]]
    assert rows_of(other) == [[*backend.encode("d e f").ids, *backend.encode("d").ids]]


def test_missing_and_blank_texts_of_a_table_are_no_documents(tokenizers, tmp_path):
    pa.parquet.write_table(pa.table({"text": ["a b", None, " ", "", "c"]}), tmp_path / "in.parquet")
    flags = ("--train_file", tmp_path / "in.parquet", "--line_by_line", "--cache_dir", tmp_path / "cache")
    assert prepare(tokenizers["wordpiece"], tmp_path / "out", *flags).documents.tolist() == [0, 4]


def test_the_documented_command_works_from_the_folder_data(tokenizers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wikipedia").mkdir()
    write_jsonl(tmp_path / "wikipedia/a.jsonl", TEXTS[:4])
    shutil.copytree(tokenizers["bpe"], "roberta-base")
    command = (
        "--output_dir wiki --dataset_name wikipedia --dataset_config_name 20200501.en --tokenizer_name roberta-base"
    )
    command += " --max_seq_length 512 --line_by_line False --preprocessing_num_workers 20"
    create_data.main(command.split())
    assert Corpus("wiki").is_grouped


# Errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--dataset_name or --train_file must be given, got neither"),
        (["--dataset_name", "a", "--train_file", "b"], "--dataset_name or --train_file must be given, got both"),
        (
            ["--dataset_name", "wikipedia", "--dataset_config_name", "20200501.de"],
            r"wikimedia/wikipedia .*20231101\.de",
        ),
        (
            ["--dataset_name", "no-body/no-thing"],
            "--dataset_name no-body/no-thing must be a local folder or a reachable",
        ),
        (["--dataset_name", "empty"], "--dataset_name must hold"),
        (["--train_file", "missing.txt"], "--train_file must name existing files"),
        (["--train_file", "in.pdf"], "--train_file must end in one of"),
        (["--train_file", "in.jsonl", "in.txt"], "--train_file must name files of one kind, got jsonl and text"),
        (["--train_file", "blank.jsonl"], "--train_file must hold text, got only empty lines"),
        (["--train_file", "blank.txt"], "--train_file must hold text"),
        (["--train_file", "broken.json"], r"broken\.json:2: must be JSON"),
        (["--train_file", "in.parquet", "--text_column", "body"], "--text_column must be one of id, got body"),
        (["--train_file", "in.parquet"], "--text_column must name a column of strings, got id of type int64"),
        (["--train_file", "in.jsonl", "--max_seq_length", "2"], "--max_seq_length must be at least 3, got 2"),
        (
            ["--train_file", "in.jsonl", "--preprocessing_num_workers", "0"],
            "--preprocessing_num_workers must be at least",
        ),
        (["--train_file", "in.jsonl", "--validation_split", "1"], "--validation_split must lie between 0 and 1"),
        (["--train_file", "in.jsonl", "--validation_split", "1e-9"], "--train_file must hold text for out.validation"),
        (["--train_file", "in.jsonl", "--tokenizer_name", "nowhere"], "--tokenizer_name nowhere must be a folder"),
    ],
)
def test_what_cannot_work_is_told_by_its_flag(tokenizers, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", TEXTS[:3])
    pa.parquet.write_table(pa.table({"id": [1, 2]}), tmp_path / "in.parquet")
    for name in ("in.pdf", "in.txt", "blank.jsonl", "blank.txt"):
        (tmp_path / name).write_text("\n")
    (tmp_path / "broken.json").write_text('[{"text": "a"},\n {"text": ]')
    (tmp_path / "empty").mkdir()
    tokenizer = [] if "--tokenizer_name" in flags else ["--tokenizer_name", str(tokenizers["wordpiece"])]
    with pytest.raises(ValueError, match=message):
        create_data.main([*tokenizer, "--output_dir", "out", "--cache_dir", str(tmp_path / "cache"), *flags])


def test_bad_lines_are_named(tokenizers, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"in\.jsonl:2: "):
        prepare(tokenizers["wordpiece"], tmp_path / "out", "--train_file", tmp_path / "in.jsonl")
    (tmp_path / "in.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(DataError, match=r"in\.txt:2: must be UTF-8"):
        prepare(tokenizers["wordpiece"], tmp_path / "other", "--train_file", tmp_path / "in.txt")


def test_only_true_and_false_are_booleans(tokenizers, tmp_path):
    with pytest.raises(ArgumentError, match="--line_by_line: must be true or false, got 'maybe'"):
        prepare(tokenizers["wordpiece"], tmp_path / "out", "--line_by_line", "maybe")


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr(create_data, "load_tokenizer", lambda *arguments: Slow())
    (tmp_path / "slow").mkdir()
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS[:3])
    with pytest.raises(ArgumentError, match="must be a fast tokenizer, got Slow"):
        prepare(tmp_path / "slow", tmp_path / "out", "--train_file", source)


def test_units_of_a_table_hold_every_row_once(small_tables):
    column = pa.chunked_array([pa.array(TEXTS[:50]), pa.array(TEXTS[50:90]).slice(7), pa.array([], pa.string())])
    source = sources.TableSource(column, "table")
    inputs, units = source.scan()
    documents = [item[:2] for unit in units for item in source.raw(unit)]
    wanted = [*TEXTS[:50], *TEXTS[57:90]]
    assert documents == list(enumerate(wanted)) and len(units) > 3
    assert inputs[0]["bytes"] == sum(len(text.encode()) for text in wanted)
    other, _ = sources.TableSource(pa.chunked_array([pa.array(wanted)]), "table").scan()
    assert isinstance(other[0]["sha256"], str) and np.diff([unit.document for unit in units]).min() > 0
