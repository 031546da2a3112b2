"""Files as users have them, for the scripts that prepare data: read as they are meant, or refused in one line."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import datasets
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


def test_names_that_are_not_utf8_are_read_and_written(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode("中".encode("gbk"))
    texts = [f"今天天气很好，document {number} of twelve" for number in range(12)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    source = written(Path(f"in{name}/{name}.jsonl"), lines)
    for workers in (1, 2):  # the second goes on with what is finished
        flags = ("--model_name", tokenizer, "--input_path", source.parent, "--output_dir", f"{name}o", "--workers")
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
        create(tokenizer, Path(f"{name}{kind}"), "--train_file", file, "--cache_dir", f"c{name}")
    convert("--input_path", source.parent, "--output_path", f"j{name}", "--json_field", "text", "--workers", 2)
    convert("--input_path", f"{name}.txt", "--output_path", f"k{name}", "--doc_spliter", "line", "--no-merge")
    written_lines = Path(f"j{name}.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["text"] for line in written_lines) == sorted(texts)
    train_tokenizer.main(["--input_path", f"in{name}", "--output_dir", f"t{name}"])
    train(run_mlm_wwm, tokenizer, corpus.folder, Path("run"))
    assert json.loads(Path("run/run.json").read_text())
    with pytest.raises(ArgumentError, match="--tokenizer_name must be a folder whose name is UTF-8"):
        create(Path(f"t{name}"), Path("refused"), "--train_file", f"{name}.txt")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A BERT vocabulary of letters, digits and some Chinese."""
    folder = tmp_path_factory.mktemp("tokenizer")
    pieces = [*'abcdefghijklmnopqrstuvwxyz0123456789.,"[]{}:']
    tokens = [*SPECIALS, *pieces, *(f"##{piece}" for piece in pieces[:36]), *"今天气很好我们"]
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    return folder


SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def create(tokenizer, output, *flags):
    """Run data/create_data.py; return its documents as text."""
    more = ["--output_dir", output, "--line_by_line", "true", "--preprocessing_num_workers", 1]
    create_data.main(list(map(str, ["--tokenizer_name", tokenizer, *more, *flags])))
    vocabulary = (tokenizer / "vocab.txt").read_text(encoding="utf-8").split("\n")
    rows = Corpus(output).rows(range(len(Corpus(output))))
    return [" ".join(vocabulary[token] for token in row["input_ids"][1:-1]).replace(" ##", "") for row in rows]


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Tables in text files


@pytest.mark.parametrize("name", ["in.tsv", "IN.TAB"])
def test_a_tab_separated_file_is_never_quoted(tokenizer, tmp_path, name):
    rows = ["zero", '"never closed. one', "two", 'the 5" screen', '"whole"', "NA", "7", ""]
    lines = [f"{number}\t{row}" for number, row in enumerate(rows)]
    file = written(tmp_path / name, "\ufeffid\ttext\r\n" + "\r\n".join(lines))
    rows = create(tokenizer, tmp_path / "o", "--train_file", file, "--cache_dir", tmp_path / "c")
    assert rows == ["zero", '" never closed . one', "two", 'the 5 " screen', '" whole "', "na", "7"]
    assert not list((tmp_path / "c").iterdir())


def test_a_comma_separated_file_keeps_every_text_as_it_is_written(tokenizer, tmp_path):
    long = "ab " * 60_000
    file = written(tmp_path / "in.csv", f'text,id\n"a ""q""\nb, c",0\nnull,1\n2020.01,2\n\n{long},3\n')
    rows = create(tokenizer, tmp_path / "o", "--train_file", file, "--max_seq_length", 200_000)
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
def test_a_table_that_cannot_be_meant_is_refused_where_it_goes_wrong(tokenizer, tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        create(tokenizer, tmp_path / "o", "--train_file", written(tmp_path / name, content), "--cache_dir", tmp_path)
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").glob("*.arrow"))


def test_the_column_that_is_read_is_named(tokenizer, tmp_path, capsys):
    file = written(tmp_path / "in.csv", ",body,title\n0,one,x\n1,,y\n")
    assert create(tokenizer, tmp_path / "o", "--train_file", file) == ["one"]
    said = capsys.readouterr().err
    assert "reading 'body' of , body, title, a guess (--text_column)" in said
    assert "left out: 1 of the 2 rows of in.csv (no 'body')" in said


# Folders


@pytest.mark.parametrize(
    "names, read, left_out",
    [
        (["books_train.txt", "wiki.txt"], ["books_train.txt"], ["wiki.txt"]),
        (["a.txt", "my_test_of_time.txt", "dev/b.txt", "sub/c.TXT"], ["a.txt", "sub/c.TXT"], ["b.txt", "_of_time"]),
        (["a.txt", "README.md", "b.txt.gz", ".hidden"], ["a.txt"], ["README.md", "b.txt.gz"]),
    ],
)
def test_what_is_not_read_of_a_folder_is_named(tokenizer, tmp_path, capsys, names, read, left_out):
    for name in names:
        written(tmp_path / "in" / name, f"{name.lower()}\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "more")
    (tmp_path / "in/loop.txt").symlink_to("loop.txt")
    rows = create(tokenizer, tmp_path / "o", "--dataset_name", tmp_path / "in")
    assert len(rows) == len(read)
    said = [line for line in capsys.readouterr().err.split("\n") if line.startswith("left out")]
    assert all(any(name in line for line in said) for name in [*left_out, "linked", "loop.txt"]), said
    assert not any(name in line for line in said for name in read)


def test_other_splits_of_a_saved_data_set_are_named(tokenizer, tmp_path, capsys):
    split = datasets.Dataset.from_dict({"text": ["one"]})
    datasets.DatasetDict({"train": split, "more": split}).save_to_disk(tmp_path / "in")
    assert create(tokenizer, tmp_path / "o", "--dataset_name", tmp_path / "in") == ["one"]
    assert f"left out: {tmp_path / 'in/more'} (another split than train)" in capsys.readouterr().err
    datasets.DatasetDict({"a": split, "b": split}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match=r"must be a data set with a split train, got .* with a, b; name the folder"):
        create(tokenizer, tmp_path / "o2", "--dataset_name", tmp_path / "other")


def test_one_file_is_not_read_twice_in_silence(tokenizer, tmp_path, capsys):
    file = written(tmp_path / "in/a.txt", "one\n")
    (tmp_path / "in/b.txt").symlink_to(file)
    assert create(tokenizer, tmp_path / "o", "--dataset_name", tmp_path / "in") == ["one", "one"]
    assert f"read twice: {tmp_path / 'in/b.txt'}, which is the same file as {file}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--train_file must name each file once"):
        create(tokenizer, tmp_path / "o2", "--train_file", file, tmp_path / "in/b.txt")


FOREIGN = {
    "packed by gzip": gzip.compress(b"one"),
    "a zip archive": b"PK\3\4....",
    "a PDF": b"%PDF-1.7\n",
    "a Parquet file": b"PAR1\x15\4",
    "UTF-16": "one".encode("utf-16"),
    "bytes are zero": "one two".encode("utf-16-le"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.jsonl"])
def test_files_of_another_kind_are_told_what_they_are(tokenizer, tmp_path, kind, name):
    with pytest.raises(ValueError, match=f"--train_file must name files of UTF-8 text, got .*{kind}"):
        create(tokenizer, tmp_path / "o", "--train_file", written(tmp_path / name, FOREIGN[kind]))
    assert not (tmp_path / "o").exists()


def test_json_lines_are_no_text(tokenizer, tmp_path):
    file = written(tmp_path / "in.txt", json.dumps({"id": 1, "text": "one"}) + "\n")
    with pytest.raises(ValueError, match=r"JSON lines with the keys id, text; rename it to end in \.jsonl"):
        create(tokenizer, tmp_path / "o", "--train_file", file)


def test_files_of_two_folders_make_one_corpus(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.txt", "one\n")
    other = written(tmp_path / "sub/b.txt", "two")
    assert create(tokenizer, tmp_path / "o", "--train_file", "a.txt", other) == ["one", "two"]


# A vocabulary


@pytest.mark.parametrize("more", ["".join(random.Random(0).choices("abcdefgh0123456789", k=8000)), "x" * 101])
def test_words_that_bert_makes_unknown_teach_nothing_and_cost_nothing(tmp_path, capsys, more):
    short = [f"document number {number} 今天天气很好" for number in range(300)]
    vocabularies, seconds = [], []
    for name, texts in (("without", short), ("with", [*short, more])):
        file = written(tmp_path / f"{name}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        begin = time.process_time()
        train_tokenizer.main(["--input_path", str(file), "--output_dir", str(tmp_path / name), "--vocab_size", "3000"])
        seconds.append(time.process_time() - begin)
        vocabularies.append((tmp_path / name / "vocab.txt").read_text())
    assert vocabularies[0] == vocabularies[1]
    assert seconds[1] < seconds[0] + 0.5
    assert "left out: 1 words of more than 100 characters" in capsys.readouterr().out


def test_long_words_of_a_vocabulary_are_merged_in_time_that_grows_with_the_merges(tmp_path):
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=100)) for _ in range(300)]
    file = written(tmp_path / "in.jsonl", json.dumps({"text": " ".join(words)}))
    begin = time.process_time()
    train_tokenizer.main(["--input_path", str(file), "--output_dir", str(tmp_path / "o"), "--vocab_size", "1500"])
    assert time.process_time() - begin < 2  # 8 seconds when each merge counted whole words again


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


def test_text_of_another_script_is_told_by_create_data(tokenizer, tmp_path, capsys):
    create(tokenizer, tmp_path / "o", "--train_file", written(tmp_path / "in.txt", "hello мир\n\u200b\n"))
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


def test_a_tokenizer_that_cannot_work_is_told_before_the_corpus(tmp_path, tokenizer, capsys):
    backend, names = framed(["[UNK]"])
    unknown = generic(tmp_path / "unknown", backend, **names)
    settings = json.loads(framed()[0].to_str())
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    settings["added_tokens"] = [{"id": 5, "content": "<x>", "special": True, **kinds}]
    same = generic(tmp_path / "same", framed()[0], **framed()[1])
    settings["model"]["vocab"] |= {"b": 5}
    written(same / "tokenizer.json", json.dumps(settings | {"added_tokens": []}))
    marked = written(tmp_path / "marked/vocab.txt", "\ufeff" + (tokenizer / "vocab.txt").read_text()).parent
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
