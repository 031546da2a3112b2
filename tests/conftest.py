"""Folders and numbers that several test files need."""

import gc
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.corpus import preparation, sources
from data.corpus.arrow_shards import shard_name, write_shard
from data.corpus.manifest import FORMAT, write_manifest
from data.tokens.tokenizer_files import tokenizer_hash
from models.convert import transformer_xl
from models.tokenization_cog import cog_tokenizer
from tests.small_runs import SmallRuns
from training.pretrained import load_tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).resolve().parents[2] / "shared"  # beside the repository

# Started in the background or by nohup, a suite ignores these, as then would the processes that its tests signal.
for ignored, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, default)


def pytest_collection_modifyitems(items):
    """Tests marked needs_shared are skipped where the folder of real files is absent."""
    if not SHARED.is_dir():
        absent = pytest.mark.skip(reason="needs the real files of ../shared, a folder beside the repository")
        for item in items:
            if item.get_closest_marker("needs_shared"):
                item.add_marker(absent)


@pytest.fixture(scope="session")
def shared():
    """The folder of real files, for tests marked needs_shared."""
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _spared_imports():
    """Every training ends with a garbage collection, which looks at the millions of imported objects unless told."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def parity():
    """name -> (config fields, foreign state dict, cases); the original programs' numbers (see `origin`)."""

    def read(name):
        described = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
        tensors = load_file(FIXTURES / f"{name}.safetensors")
        state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
        fields = ("input_ids", "attention_mask", "token_type_ids", "labels", "logits", "last_hidden_state")
        fields += ("embedding_output", "hidden_after_layer0", "attn_layer0")
        cases = [
            case | {field: tensors.get(f"case{i}/{field}") for field in fields}
            for i, case in enumerate(described["cases"])
        ]
        return described["config"], state, cases

    return read


@pytest.fixture
def published(parity, tmp_path):
    """name -> a folder as its authors published it: config.json, pytorch_model.bin with shared storages, vocab.txt."""

    def make(name, change=lambda state: state, **fields):
        config, state, _ = parity(name)
        for copy, tensor in (
            ("cls.predictions.decoder.weight", f"{name}.embeddings.word_embeddings.weight"),
            ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ):
            if copy in state and tensor in state:
                state[copy] = state[tensor]
        folder = tmp_path / f"published_{name}"
        folder.mkdir()
        model = {"gau_alpha": "GAUAlpha", "flash_quad": "FLASHQuad", "flash": "FLASH"}[name]
        config = config | {"architectures": [f"{model}ForMaskedLM"], "transformers_version": "4.17.0"} | fields
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        torch.save(change(state), folder / "pytorch_model.bin")
        characters = [chr(0x4E00 + i) for i in range(config["vocab_size"] - 5)]
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def xl_tensors():
    """Numbers of the original Chinese Transformer-XL by their path (see `origin` in transformer_xl.json)."""
    return load_file(FIXTURES / "transformer_xl.safetensors")


@pytest.fixture(scope="session")
def xl_state(xl_tensors):
    """(prefix) -> the original's state dict under this path, by its names."""

    def make(prefix="state_dict/"):
        return {name.removeprefix(prefix): x for name, x in xl_tensors.items() if name.startswith(prefix)}

    return make


@pytest.fixture(scope="session")
def xl_folder(xl_state, tmp_path_factory):
    """(**extras) -> a new folder as its authors publish a Transformer-XL: one file, of the fixture's small model."""

    def make(state=None, **extras):
        folder = tmp_path_factory.mktemp("thudm") / "txl"
        folder.mkdir()
        torch.save({"module": xl_state() if state is None else state} | extras, folder / "mp_rank_00_model_states.pt")
        return folder

    return make


@pytest.fixture(scope="session")
def xl_model(xl_folder, xl_state):
    """(prefix, **config fields) -> the fixture's model without dropout, in eval mode."""

    def make(prefix="state_dict/", **fields):
        plain = {"eos_token_id": 63, "pad_token_id": 63, "hidden_dropout": 0.0, "attention_dropout": 0.0}
        if prefix != "state_dict/":
            plain["num_attention_heads"] = 4
        return transformer_xl.load(xl_folder(xl_state(prefix)), plain | fields)

    return make


_CHINESE = (
    "他在研究生命起源这位也参与其中北京大学和清华的长江桥天安门我爱你好吗今天气很不错卡拉恤用了手机一二三人云计算"
)
_LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFéß0123456789"


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """(**tokenizer_config) -> folder with the vocab.txt of a small BERT tokenizer, and a config if one is given."""

    def make(**config):
        folder = tmp_path_factory.mktemp("tokenizer")
        tokens = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "caf", "##fe", "研"]
        tokens += [
            *_CHINESE,
            *_LATIN,
            *(f"##{letter}" for letter in _LATIN),
            *"。，！？；：“”‘’（）《》、…—.,!?;:'\"()-%@#/",
        ]
        (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(tokens)) + "\n", encoding="utf-8")
        if config:
            (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def write_corpus():
    """(folder, tokenizer folder, rows, seed) -> a corpus folder of random words; each place has two likely tokens."""

    def write(folder, vocabulary, rows=120, seed=0):
        tokenizer = load_tokenizer(str(vocabulary), "--tokenizer_name")
        rng = np.random.default_rng(seed)
        lengths = rng.integers(6, 40, rows)
        first = np.cumsum(lengths) - lengths
        words = np.arange(lengths.sum()) // 2 % 7
        ids = (9 + 10 * rng.integers(0, 2, lengths.sum()) + words).astype(np.uint16)
        marks = (np.arange(lengths.sum()) % 2).astype(np.uint8)
        marks[first] = marks[first + 1] = marks[first + lengths - 1] = 0
        ids[first], ids[first + lengths - 1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        folder.mkdir(parents=True)
        shard = folder / shard_name(0)
        write_shard(shard, ids, marks, lengths, np.arange(rows) // 3, {})
        size = {"name": "tiny", "size": len(tokenizer), "hash": tokenizer_hash(tokenizer.backend_tokenizer)}
        shards = [{"file": shard.name, "bytes": shard.stat().st_size}]
        write_manifest(folder, {"format": FORMAT, "complete": True, "tokenizer": size, "shards": shards})
        return folder

    return write


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, bert_folder, write_corpus):
    """(tokenizer folder, corpus folder)"""
    tokenizer = bert_folder()
    return tokenizer, write_corpus(tmp_path_factory.mktemp("prepared") / "corpus", tokenizer)


@pytest.fixture(scope="session")
def train_sentencepiece(tmp_path_factory):
    """(**options) -> the file of a small sentencepiece model trained as that of Chinese Transformer-XL was."""

    def train(**options):
        sentencepiece = pytest.importorskip("sentencepiece")
        folder = tmp_path_factory.mktemp("sentencepiece")
        lines = [f"{_CHINESE[i : i + 9]}{_CHINESE[2 * i % 40 :][:6]}" for i in range(len(_CHINESE))]
        lines += [
            "问题：怎么看待大模型？问题描述：最近很火。回答用户：知乎用户 回答：",
            "the cat of the house, 2021 abc def (a.b)",
        ]
        lines += ["".join(pair) for pair in zip(_CHINESE, _LATIN, strict=False)]
        (folder / "text.txt").write_text("\n".join(lines * 3) + "\n", encoding="utf-8")
        plain = {"vocab_size": 300, "model_type": "bpe", "character_coverage": 0.9995, "user_defined_symbols": "<n>"}
        plain |= {"normalization_rule_name": "nmt_nfkc", "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text.txt"), model_prefix=str(folder / "cog"), **plain | options
        )
        return folder / "cog.model"

    return train


@pytest.fixture(scope="session")
def small_cog_file(train_sentencepiece):
    return train_sentencepiece()


@pytest.fixture(scope="session")
def small_cog(small_cog_file):
    """(**options) -> the tokenizer of the small sentencepiece model."""
    return lambda **options: cog_tokenizer(small_cog_file, **options)


@pytest.fixture(scope="session")
def published_txl(small_cog_file, tmp_path_factory):
    """A small Transformer-XL as its authors publish it, in half precision, with its tokenizer beside it."""
    cog = cog_tokenizer(small_cog_file)
    torch.manual_seed(0)
    config = transformer_xl.TransformerXLConfig(
        vocab_size=384,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=cog.eos_token_id,
        pad_token_id=cog.pad_token_id,
        positions_dtype="float16",
        initializer_range=0.2,
    )
    import convert_checkpoint

    base = tmp_path_factory.mktemp("published_txl")
    transformer_xl.TransformerXLForCausalLM(config).half().save_pretrained(base / "hf")
    convert_checkpoint.main(["--reverse", str(base / "hf"), str(base / "txl")])
    shutil.copy(small_cog_file, base / "txl" / "cog-pretrain.model")
    return base / "txl"


@pytest.fixture(scope="session")
def small_runs(bert_folder, write_corpus, tmp_path_factory):
    """The smallest runs of each training script."""
    return SmallRuns(tmp_path_factory.mktemp("small_runs"), bert_folder(), write_corpus)


@pytest.fixture
def vocabulary(bert_folder):
    """Folder of a BERT vocabulary."""
    return bert_folder()


@pytest.fixture
def small_units(monkeypatch):
    """Units and batches of run_chinese_ref.py so small that short documents fill several."""
    monkeypatch.setattr(sources, "UNIT_BYTES", 4000)
    monkeypatch.setattr(preparation, "_BATCH", 1000)
