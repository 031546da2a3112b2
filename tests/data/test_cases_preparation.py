"""Files as users have them, for the scripts that prepare data: read as they are meant, or refused in one line."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import tokenizers

import run_chinese_ref
import run_electra
import run_mlm_wwm
from common.errors import ArgumentError
from data import create_data, train_tokenizer, trans_to_json
from data.corpus.store import Corpus
from data.text.prompts import read_documents
from tests.data.preparing import SPECIALS, create, written

ROOT = Path(__file__).parents[2]

# Names that are not UTF-8, terminals that are not


@pytest.mark.parametrize(
    "name, printed", [("中文.txt".encode(), "中文.txt"), ("中文".encode("gbk"), r"\udcd6\udcd0\udcce\udcc4")]
)
def test_any_name_can_be_printed_on_any_terminal(name, printed):
    program = "import sys, common.script as s; s.run_script(lambda: print('\\u4e2d', sys.argv[1]))"
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, name], env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == f"中 {printed}\n"


def test_names_that_are_not_utf8_are_read_and_written(tmp_path, letters, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode("中".encode("gbk"))
    texts = [f"今天天气很好，document {number} of twelve" for number in range(12)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    source = written(Path(f"in{name}/{name}.jsonl"), lines)
    for workers in (1, 2):  # the second goes on with what is finished
        flags = ("--model_name", letters, "--input_path", source.parent, "--output_dir", f"{name}o", "--workers")
        run_chinese_ref.main([*map(str, flags), str(workers), "--reference_files", "--user_dict", str(source)])
    corpus = Corpus(f"{name}o")
    assert [file["file"] for file in corpus.manifest["inputs"]] == [source.name] and len(corpus) == 12
    table = "".join(f"{number}\t{text}\n" for number, text in enumerate(texts))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), "a.parquet")
    contents = {
        "txt": "\n".join(texts),
        "jsonl": lines,
        "tsv": f"id\ttext\n{table}",
        "json": '[{"text": "x"}]',
        "csv": "text\n" + "\n".join(texts).replace("，", ""),
        "parquet": Path("a.parquet").read_bytes(),
    }
    for kind, content in contents.items():
        file = written(Path(f"{name}.{kind}"), content)
        create(letters, Path(f"{name}{kind}"), "--train_file", file, "--cache_dir", f"c{name}")
    convert("--input_path", source.parent, "--output_path", f"j{name}", "--json_field", "text", "--workers", 2)
    convert("--input_path", f"{name}.txt", "--output_path", f"k{name}", "--doc_spliter", "line", "--no-merge")
    written_lines = Path(f"j{name}.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["text"] for line in written_lines) == sorted(texts)
    train_tokenizer.main(["--input_path", f"in{name}", "--output_dir", f"t{name}"])
    train(run_mlm_wwm, letters, corpus.folder, Path("run"))
    assert json.loads(Path("run/run.json").read_text())
    with pytest.raises(ArgumentError, match="--tokenizer_name must be a folder whose name is UTF-8"):
        create(Path(f"t{name}"), Path("refused"), "--train_file", f"{name}.txt")


# Raw text


def convert(*flags):
    trans_to_json.main([*map(str, flags), "--log_interval=60"])


LINES = "".join(
    json.dumps({"id": n, "text": f"第{n}篇文章：今天天气很好。"}, ensure_ascii=False) + "\n" for n in range(4)
)


@pytest.mark.parametrize(
    "content, message",
    [
        (LINES, "JSON lines with the keys id, text; name the key of the text with --json_field"),
        (f"\ufeff\r\n{LINES}", "JSON lines with the keys id, text"),
        (LINES.encode("gb18030"), "JSON lines with the keys id, text"),
        ("[" + ",\n".join(LINES.splitlines()) + "]", "a JSON array; convert it"),
        ('[\n  "one text",\n "another"]', "a JSON array"),
        ('{\n  "text": "one"\n}\n', "a JSON object"),
        (gzip.compress(LINES.encode()), "packed by gzip; unpack it"),
        (LINES.encode("utf-16"), "UTF-16"),
    ],
)
def test_json_is_not_taken_for_text(tmp_path, content, message):
    file = written(tmp_path / "in/wiki_00", content)
    encoding = "gb18030" if content == LINES.encode("gb18030") else "utf-8"
    for source in (file, file.parent):
        with pytest.raises(ValueError, match=f"--input_path must .*wiki_00', {message}"):
            convert("--input_path", source, "--output_path", tmp_path / "o", "--encoding", encoding)
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_text_that_begins_with_a_bracket_is_text(tmp_path):
    file = written(tmp_path / "in.txt", '["Quoted" and bracketed]\n\n{braces: are no JSON}\n\n[1] A footnote, here\n')
    convert("--input_path", file, "--output_path", tmp_path / "o")
    assert (tmp_path / "o.jsonl").read_text().count("\n") == 3


def test_files_that_are_no_text_can_be_left_out(tmp_path, capsys):
    written(tmp_path / "in/a.pdf", b"%PDF-1.7\n...")
    written(tmp_path / "in/b.txt", "a document of text\n")
    convert("--input_path", tmp_path / "in", "--output_path", tmp_path / "o", "--on_error", "skip")
    assert "left out: --input_path must name files of UTF-8 text, got" in capsys.readouterr().err
    assert (tmp_path / "o.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "content, flags, warned",
    [
        ("".join(f"document number {n}\n" for n in range(50)), (), True),
        ("".join(f"document number {n}\r\n" for n in range(50)), (), True),
        ("".join(f"document number {n}\n" for n in range(50)), ("--doc_spliter", "line"), False),
        ("".join(f"document number {n}\nof two lines\n\n" for n in range(50)), (), False),
        ("".join(f"document number {n}\nof two lines\n\n" for n in range(50)) + "line\n" * 500, (), True),
        ("only one line, which is one document\n", (), False),
    ],
)
def test_one_document_of_much_of_the_text_is_told(tmp_path, capsys, content, flags, warned):
    file = written(tmp_path / "in.txt", content)
    convert("--input_path", file, "--output_path", tmp_path / "o", *flags)
    said = capsys.readouterr().err
    assert ("if each line is a document, add --doc_spliter line" in said) == warned


@pytest.mark.parametrize("spliter, told", [(None, True), ("", True), ("line", False)])
def test_texts_of_causal_training_are_looked_at_alike(tmp_path, caplog, spliter, told):
    file = written(tmp_path / "in.txt", "".join(f"document number {n}\n" for n in range(50)))
    with caplog.at_level("INFO"):
        assert len(list(read_documents(file, "--train_file", spliter))) == (50 if spliter == "line" else 1)
    assert ("if each line is a document, add --doc_spliter line" in caplog.text) == told
    with pytest.raises(ValueError, match=r"--train_file must name files of text, got .* JSON lines with the keys id"):
        list(read_documents(written(tmp_path / "wiki_00", LINES), "--train_file", spliter))
    with pytest.raises(ValueError, match=r"--train_file must name files of UTF-8 text, got .* packed by gzip"):
        list(read_documents(written(tmp_path / "a.jsonl", gzip.compress(b"")), "--train_file", spliter))


# Vocabularies

SHAPE = "num_hidden_layers=1,hidden_size=32,num_attention_heads=2,intermediate_size=32"
TINY = ["--do_train", "--use_cpu", "--max_steps", "2", "--report_to", "none", "--per_device_train_batch_size", "4"]
TEXTS = [f"今天天气很好，我们{number}" for number in range(8)]
EVERY = pytest.mark.parametrize("script", [run_mlm_wwm, run_electra], ids=lambda script: script.__name__)


def vocabulary(folder, tokens, end="\n"):
    written(folder / "vocab.txt", end.join([*tokens, ""]))
    return folder


def chinese_corpus(folder, tokenizer, texts):
    file = written(folder.with_suffix(".jsonl"), "".join(json.dumps({"text": text}) + "\n" for text in texts))
    flags = ("--model_name", tokenizer, "--input_path", file, "--output_dir", folder, "--workers", 1)
    run_chinese_ref.main(list(map(str, flags)))
    return folder


def train(script, tokenizer, corpus, output, *flags):
    more = ("--config_overrides", SHAPE, "--model_type", "bert")
    if script is run_electra:
        more = ("--config_overrides", f"embedding_size=16,{SHAPE}", "--warmup_steps", 1, "--dataloader_num_workers", 0)
    flags = ("--tokenizer_name", tokenizer, "--train_dir", corpus, "--output_dir", output, *more, *flags)
    return script.main([*map(str, flags), *TINY])


@EVERY
def test_a_corpus_of_unknown_tokens_is_told_and_not_trained_on(tmp_path, capsys, script):
    wrong = vocabulary(tmp_path / "wrong", [*SPECIALS, *"abc今"])
    known = chinese_corpus(tmp_path / "known", wrong, ["今今今a"])
    assert "0 unknown tokens (0.00%)" in capsys.readouterr().out
    chinese_corpus(tmp_path / "some", wrong, TEXTS)
    said = capsys.readouterr()
    assert "72 unknown tokens (90.00%)" in said.out
    assert f"warning: 90.0% of the tokens in {tmp_path / 'some'} are unknown" in said.err
    nothing = chinese_corpus(tmp_path / "nothing", wrong, ["天气"])
    for corpus, flag, *flags in (
        (nothing, "--train_dir"),
        (known, "--validation_dir", "--do_eval", "--validation_dir", nothing),
    ):
        with pytest.raises(ValueError, match=f"{flag} .*must hold tokens to mask, got only special and unknown ones"):
            train(script, wrong, corpus, tmp_path / "o", *flags)
    assert not (tmp_path / "o").exists()


def test_text_of_another_script_is_told_by_create_data(letters, tmp_path, capsys):
    create(letters, tmp_path / "o", "--train_file", written(tmp_path / "in.txt", "hello мир\n\u200b\n"))
    said = capsys.readouterr()
    assert "1 documents without a token, 1 unknown tokens (16.67%)" in said.out
    assert "warning: 16.7% of the tokens" in said.err


@EVERY
@pytest.mark.parametrize("kind", ["repeated", "blank", "spaces", "crlf"])
def test_ids_are_the_line_numbers_of_a_vocabulary(tmp_path, capsys, script, kind):
    """The reserved id of an entry that stands twice is an entry of the model, too."""
    tokens = [*SPECIALS, *"今今天天气很好我们，01234567"]
    if kind in ("blank", "spaces"):
        tokens = [*SPECIALS, "今", "天", "", "", *"气很好我们，01234567"]
    if kind == "spaces":
        tokens[6:8] = ["天 ", "天"]
    folder = vocabulary(tmp_path / "tokenizer", tokens, "\r\n" if kind == "crlf" else "\n")
    corpus = Corpus(chinese_corpus(tmp_path / "corpus", folder, TEXTS))
    assert "of its 23 ids have no token" in capsys.readouterr().err
    assert corpus.manifest["tokenizer"]["size"] == len(corpus.token_counts()) == len(tokens) == 23
    train(script, folder, corpus.folder, tmp_path / "o")
    part = tmp_path / "o" / ("discriminator" if script is run_electra else "")
    assert json.loads((part / "config.json").read_text())["vocab_size"] == 23


def test_counts_of_a_corpus_that_says_fewer_entries_than_it_has(tmp_path):
    folder = vocabulary(tmp_path / "tokenizer", [*SPECIALS, *"今今天"])
    corpus = Corpus(chinese_corpus(tmp_path / "corpus", folder, ["今天"]))
    corpus.manifest["tokenizer"]["size"] = 7
    assert corpus.token_counts().tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def generic(folder, backend, **settings):
    folder.mkdir(parents=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    written(folder / "tokenizer_config.json", json.dumps(settings))
    return folder


def framed(missing=()):
    """A WordPiece tokenizer with [CLS] and [SEP], without some of the special tokens."""
    kept = [token for token in SPECIALS if token not in missing]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({token: n for n, token in enumerate([*kept, *"abc"])}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return backend, {key: token for key, token in names.items() if token in kept}


@EVERY
@pytest.mark.parametrize("missing", ["mask", "pad"])
def test_a_tokenizer_without_mask_or_padding_is_told_before_training(tmp_path, capsys, script, missing):
    backend, names = framed([f"[{missing.upper()}]"])
    folder = generic(tmp_path / "tokenizer", backend, **names)
    file = written(tmp_path / "in.txt", "a b c\n")
    flags = ("--tokenizer_name", folder, "--train_file", file, "--output_dir", tmp_path / "corpus")
    create_data.main(list(map(str, flags)))
    said = capsys.readouterr().err
    assert (f"--tokenizer_name {folder}: it has no mask token" in said) == (missing == "mask")
    with pytest.raises(ArgumentError, match=f"--tokenizer_name .*tokenizer must have a {missing} token"):
        train(script, folder, tmp_path / "corpus", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_tokenizer_that_cannot_work_is_told_before_the_corpus(tmp_path, letters, capsys):
    backend, names = framed(["[UNK]"])
    unknown = generic(tmp_path / "unknown", backend, **names)
    settings = json.loads(framed()[0].to_str())
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    settings["added_tokens"] = [{"id": 5, "content": "<x>", "special": True, **kinds}]
    same = generic(tmp_path / "same", framed()[0], **framed()[1])
    settings["model"]["vocab"] |= {"b": 5}
    written(same / "tokenizer.json", json.dumps(settings | {"added_tokens": []}))
    marked = written(tmp_path / "marked/vocab.txt", "\ufeff" + (letters / "vocab.txt").read_text()).parent
    for folder, message in (
        (unknown, r"must have a token for what it does not know, got: .*Missing \[UNK\] token"),
        (same, "must give each token an id of its own, got 5 for"),
        (marked, r"must have a vocab\.txt without byte order mark"),
    ):
        with pytest.raises(ValueError, match=f"--tokenizer_name {folder} {message}"):
            create(folder, tmp_path / "o", "--train_file", written(tmp_path / "in.txt", "a b c\n"))
    assert not (tmp_path / "o").exists()


def test_a_tokenizer_that_drops_what_it_does_not_know_is_told(tmp_path, capsys):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    folder = generic(tmp_path / "tokenizer", backend)
    file = written(tmp_path / "in.txt", "axb\n")
    create_data.main([*map(str, ("--tokenizer_name", folder, "--train_file", file, "--output_dir", tmp_path / "o"))])
    assert "it has no unknown token: characters that it does not know are dropped" in capsys.readouterr().err
