"""Folders that the scripts leave: whole, with a card, and loaded elsewhere by what the card says."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from transformers import BertTokenizer

from training.sharing.model_folder import command_line, save_tokenizer

RUNS = {
    "mlm": ("mlm", {"validation_split": 0.2}),
    "clm": ("clm", {}),
    "electra": ("electra", {}),
    "auto": ("glue", {}),
    "linear": ("glue", {"head": "linear"}),
    "mean": ("glue", {"pooling": "mean"}),
    "recipe": ("glue", {"recipe": "electra"}),
}
STRANGER = """
import json, os, sys, torch
for folder, code in json.loads(sys.argv[1]).items():
    os.chdir(os.path.dirname(folder))
    names = {}
    exec(code, names)
    ids = torch.tensor([[2, 5, 6, 3]])
    assert all(torch.isfinite(value).all() for value in names["model"].eval()(ids)[:1]), folder
    assert len(names["tokenizer"]("天安门").input_ids) > 3
    if "pipe" in names:
        text = "天[MASK]门" if names["pipe"].task == "fill-mask" else "天安门"
        assert names["pipe"](text), folder
    assert not any(name.startswith(("models", "training")) for name in sys.modules), folder
"""


@pytest.fixture(scope="module")
def folders(small_runs, tmp_path_factory):
    """What each run leaves as models."""
    work, left = tmp_path_factory.mktemp("runs"), {}
    for name, (script, changes) in RUNS.items():
        small_runs.run(script, work / name, **changes | {"max_steps": 3})
        if script == "electra":
            left |= {f"{name} {part}": work / name / part for part in ("discriminator", "generator")}
        else:
            left[name] = next((work / name).glob("adhoc/*/seed42/best")) if script == "glue" else work / name
    return left


def parts(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, fields, body = text.split("---\n", 2)
    return yaml.safe_load(fields), body, re.search(r"```python\n(.*?)```", body, re.DOTALL)[1]


def test_a_folder_holds_its_tokenizer_and_a_card_with_all_that_a_reader_asks(folders):
    for name, folder in folders.items():
        there = {file.name for file in folder.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"} <= there
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        assert lines == sorted(vocabulary, key=vocabulary.get)
        fields, body, _ = parts(folder)
        assert {"license": "unknown", "library_name": "transformers"}.items() <= fields.items()
        assert re.search(r"## Data\n\n\S", body)
        assert re.search(r"\n[\d,]+ parameters|, [\d,]+ parameters", body)
        asked = ("--model_name_or_path", "--tasks") if name in ("auto", "linear", "mean", "recipe") else ("python ",)
        assert all(flag in body for flag in asked)
    assert "| eval_mlm_accuracy |" in parts(folders["mlm"])[1]
    assert "| accuracy |" in parts(folders["mean"])[1]
    assert parts(folders["mlm"])[0]["pipeline_tag"] == "fill-mask"


@pytest.mark.slow
def test_all_of_them_load_elsewhere_by_their_cards(folders, tmp_path):
    codes = {str(folder): parts(folder)[2] for folder in folders.values()}
    command = [sys.executable, "-c", STRANGER, json.dumps(codes)]
    done = subprocess.run(command, cwd=tmp_path, env={"HF_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_vocab_txt_is_left_out_where_its_lines_would_not_be_the_ids(tmp_path):
    save_tokenizer(BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 9}), tmp_path)
    assert not (tmp_path / "vocab.txt").exists()


def test_a_card_tells_no_secret():
    line = command_line(["/home/me/run_mlm_wwm.py", "--hub_token", "hf_abc", "--output_dir", "a b"])
    assert line == "python run_mlm_wwm.py --hub_token '***' --output_dir 'a b'"
