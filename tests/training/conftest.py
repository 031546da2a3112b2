"""What tests of training share: the tiny run of run_mlm_wwm.py that they disturb."""

import pytest

SHAPE = "hidden_size=32,intermediate_size=64,num_hidden_layers=1,attention_key_size=16"


@pytest.fixture
def flags(prepared, tmp_path):
    """(flag=value, ...) -> the arguments of a tiny run into tmp_path/run."""

    def make(**changes):
        tokenizer, corpus = prepared
        values = {"tokenizer_name": tokenizer, "train_dir": corpus, "output_dir": tmp_path / "run", "use_cpu": True}
        values |= {"config_overrides": SHAPE, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 1234}
        values |= {"max_steps": 12, "logging_steps": 1, "save_steps": 2, "report_to": "none"} | changes
        return ["--do_train", *(word for name, value in values.items() for word in (f"--{name}", str(value)))]

    return make
