"""sentence-transformers on every encoder family's folder: wrapped, saved, loaded; the example of docs/python.md."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertTokenizer

from tests.models.families import make
from training.sharing.model_folder import save_tokenizer

PAGE = Path(__file__).resolve().parents[2] / "docs/python.md"
ENCODERS = [(family, "ForMaskedLM") for family in ("GAUAlpha", "FLASHQuad", "FLASH", "Electra")]
ENCODERS += [(family, "ForSequenceClassification") for family in ("GAUAlpha", "FLASH", "LinearHead", "LinearHeadMean")]
ENCODERS += [("Electra", "ForPreTraining")]
TEXTS = ["天安门", "北京大学和清华", "我"]
LETTERS = "天安门北京大学和清华我爱你的生命起源今气很不错长江桥卡拉恤用了手机一二三人云计算"
STRANGER = """
import sys, numpy
from pathlib import Path
from sentence_transformers import SentenceTransformer
for folder in Path(sys.argv[1]).iterdir():
    model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    numpy.save(folder / "there.npy", model.encode(sys.argv[2:]))
assert not any(name == "models" or name.startswith("models.") for name in sys.modules)
"""


@pytest.fixture
def saved(tmp_path):
    """(family, ending) -> the folder of a small model with its tokenizer"""

    def save(family, ending):
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(LETTERS)]
        folder = tmp_path / f"{family}{ending}"
        make(family, ending, pad_token_id=0).save_pretrained(folder)
        save_tokenizer(BertTokenizer(vocab={token: i for i, token in enumerate(tokens[:50])}), folder)
        return folder

    return save


def pooled(folder, text, pooling):
    """The mean, or the first, of the encoder's last hidden states of one text alone."""
    tokenizer = BertTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        (states,) = encoder(**inputs).last_hidden_state
    return (states.mean(0) if pooling == "mean" else states[0]).numpy()


@pytest.mark.parametrize(("family", "ending"), ENCODERS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_are_the_pooled_states_in_any_batch(saved, family, ending, pooling):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = saved(family, ending)
    parts = sentence_transformers.sentence_transformer.modules
    encoder = parts.Transformer(str(folder))
    modules = [encoder, parts.Pooling(encoder.get_embedding_dimension(), pooling_mode=pooling)]
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    wanted = np.stack([pooled(folder, text, pooling) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=2e-5, rtol=1e-4)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3


@pytest.mark.slow
def test_saved_folders_give_the_same_embeddings_without_this_repository(saved, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    wanted = {}
    for family, ending in ENCODERS:
        folder = tmp_path / "sentences" / f"{family}{ending}"
        model = sentence_transformers.SentenceTransformer(str(saved(family, ending)), device="cpu")
        model.save(str(folder))
        wanted[folder] = model.encode(TEXTS)
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "sentences"), *TEXTS]
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, embeddings in wanted.items():
        np.testing.assert_allclose(np.load(folder / "there.npy"), embeddings, atol=1e-6, err_msg=folder.name)


def test_the_examples_of_the_page_run(saved, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    folder = saved("GAUAlpha", "ForMaskedLM")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", text[text.index("**Sentence embeddings.**") :], re.DOTALL)[:2]
    for block in blocks:
        exec(block.replace("outputs/quickstart/encoder", str(folder)), names)
    assert names["similarities"].shape == (2, 2)
    np.testing.assert_allclose(names["mean"].numpy(), names["vectors"], atol=2e-5, rtol=1e-4)
