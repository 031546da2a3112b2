"""data/train_tokenizer.py: BERT's layout, every ideograph apart, the same folder every time, read by AutoTokenizer."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from data import train_tokenizer
from data.files import DataError
from data.train_tokenizer import SPECIALS

ROOT = Path(__file__).parents[2]
TEXT = "研究生命的起源，low lower lowest newest Newest １９９８年café ok２\U00020000。"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"text": TEXT}, ensure_ascii=False)] * 3 + ['{"text": "once 独"}']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def train(corpus, output, *flags):
    train_tokenizer.main([f"--input_path={corpus}", f"--output_dir={output}", *flags])
    return (output / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


@pytest.mark.parametrize("flags", [(), ("--lowercase=false",), ("--nfkc",)], ids=" ".join)
def test_autotokenizer_reads_the_folder_with_all_tokens(corpus, tmp_path, flags):
    tokens = train(corpus, tmp_path / "t", *flags)
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    loaded = AutoTokenizer.from_pretrained(tmp_path / "t", local_files_only=True)
    assert loaded.get_vocab() == {token: i for i, token in enumerate(tokens)}
    assert {name: getattr(loaded, name) for name in SPECIALS} == SPECIALS
    assert loaded.pad_token_id == 0
    ours = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    for text in (TEXT, "[MASK]生", "Ａ1 naïve", ""):
        assert loaded(text)["input_ids"] == ours.encode(text).ids
    pair = loaded("研究", "生命")
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert loaded.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", *"研究", "[SEP]", *"生命", "[SEP]"]


def test_every_ideograph_is_a_token_of_its_own(corpus, tmp_path):
    tokens = train(corpus, tmp_path / "t")
    assert set("研究生命的起源年\U00020000，。") <= set(tokens)
    assert "lowest" in tokens
    backend = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    assert backend.encode("研究LOWEST生命", add_special_tokens=False).tokens == [*"研究", "lowest", *"生命"]
    assert "独" not in tokens
    assert backend.encode("独", add_special_tokens=False).tokens == ["[UNK]"]


def test_case_and_width(corpus, tmp_path):
    encodings = {}
    for name, flags in (("uncased", ()), ("cased", ["--lowercase=false"]), ("nfkc", ["--nfkc"])):
        train(corpus, tmp_path / name, *flags)
        backend = Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
        encodings[name] = backend.encode("Newest café １９", add_special_tokens=False).tokens
    assert encodings["uncased"][:2] == ["newest", "cafe"]
    assert encodings["cased"][:2] == ["Newest", "café"]
    assert "".join(encodings["uncased"][2:]).replace("##", "") == "１９"
    assert "".join(encodings["nfkc"][2:]).replace("##", "") == "19"


def test_sizes_are_limits(corpus, tmp_path):
    for size in (7, 20, 30, 60):
        assert len(train(corpus, tmp_path / "t", f"--vocab_size={size}")) <= size
    letters = [token for token in train(corpus, tmp_path / "t", "--limit_alphabet=4") if len(token) == 1]
    assert len(letters) == 4
    assert "独" in train(corpus, tmp_path / "t", "--min_frequency=1")
    assert "生" not in train(corpus, tmp_path / "t", "--min_frequency=4")


def test_the_same_input_gives_the_same_folder(tmp_path):
    draw = random.Random(0)
    words = ["".join(draw.choices("abcde", k=draw.randrange(1, 7))) for _ in range(400)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": f"{word} 天"}) + "\n" for word in words))
    folders = []
    for seed in ("1", "2"):
        command = [sys.executable, "train_tokenizer.py", "--input_path", tmp_path / "c.jsonl"]
        command += ["--output_dir", tmp_path / seed, "--vocab_size", "150"]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=ROOT / "data", env=environment, check=True, capture_output=True)
        folders.append({path.name: path.read_bytes() for path in (tmp_path / seed).iterdir()})
    assert folders[0] == folders[1]
    assert set(folders[0]) == {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}


def test_folder_is_replaced_only_if_it_is_a_tokenizer(corpus, tmp_path):
    train(corpus, tmp_path / "t", "--vocab_size=10")
    assert len(train(corpus, tmp_path / "t")) > 10
    corpus.write_text('{"text": "a"}\n{"content": "a"}\n')
    before = (tmp_path / "t" / "vocab.txt").read_bytes()
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: "):
        train(corpus, tmp_path / "t")
    assert (tmp_path / "t" / "vocab.txt").read_bytes() == before
    (tmp_path / "t" / "notes").touch()
    with pytest.raises(ValueError, match="--output_dir must"):
        train(corpus, tmp_path / "t")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(ValueError, match="--output_dir must"):
        train(corpus, tmp_path / "bert")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "corpus.jsonl", "t"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--vocab_size=6", "--vocab_size must be at least 7"),
        ("--min_frequency=0", "--min_frequency must be at least 1"),
        ("--limit_alphabet=0", "--limit_alphabet must be at least 1"),
        ("--input_path=nowhere", "--input_path must name"),
        ("--min_frequency=999", "--input_path must hold text"),
    ],
)
def test_wrong_flags_are_named(corpus, tmp_path, flag, message):
    with pytest.raises(ValueError, match=message):
        train(corpus, tmp_path / "t", flag)
    assert not (tmp_path / "t").exists()
