"""A row of a corpus goes from disk to loss through the files that docs/code.md lists, and those that it has beside."""

import re
import sys
from pathlib import Path

import run_mlm_wwm

ROOT = Path(__file__).resolve().parents[1]
SHAPE = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,attention_key_size=16"


def entered(words):
    """Files of the packages that functions are called of from the first step's batches to its first loss."""
    files, walking, prefix = set(), False, f"{ROOT}/"

    def look(frame, event, _):
        nonlocal walking
        code = frame.f_code
        walking = walking or (event == "call" and code.co_name == "get_batch_samples")
        if walking and code.co_filename.startswith(prefix):
            files.add(code.co_filename.removeprefix(prefix))
        if walking and event == "return" and code.co_name == "compute_loss":
            sys.setprofile(None)

    sys.setprofile(look)
    try:
        run_mlm_wwm.main(words)
    finally:
        sys.setprofile(None)
    return {file for file in files if file.split("/")[0] in ("common", "data", "models", "training")}


def test_the_way_of_a_row_is_that_of_the_map(prepared, tmp_path):
    text = re.search(r"a row from disk to loss\?\*\* (.*?)\n- ", (ROOT / "docs/code.md").read_text(), re.DOTALL)[1]
    way, beside = (re.findall(r"`([\w/]+\.py)`", part) for part in text.split("They call on"))
    assert text.startswith("Nine files") and len(way) == 9
    values = {"tokenizer_name": prepared[0], "train_dir": prepared[1], "output_dir": tmp_path / "run"}
    values |= {"config_overrides": SHAPE, "validation_split": 0.2, "max_steps": 1, "report_to": "none"}
    files = entered(["--do_train", "--use_cpu", *(f"--{name}={value}" for name, value in values.items())])
    assert files - {*beside} == {*way} - {"run_mlm_wwm.py"}, "the script has put them together before"
    assert {*beside} - files == {"data/corpus/arrow_shards.py"}, "opening has mapped a small corpus"
