"""Command lines of the smallest runs of each training script, of 8 steps, with checkpoints after 3, 6 and 8."""

import importlib
import json

import torch
from transformers import AutoModel, BertConfig

from training.pretrained import load_tokenizer

SCRIPTS = {"mlm": "run_mlm_wwm", "electra": "run_electra", "clm": "run_clm", "glue": "run_glue"}
SHAPES = {
    "mlm": "hidden_size=32,intermediate_size=64,num_hidden_layers=1,attention_key_size=16"
    ",hidden_dropout_prob={0},attention_probs_dropout_prob={0}",
    "electra": "embedding_size=16,hidden_size=32,num_hidden_layers=1,num_attention_heads=4,intermediate_size=64"
    ",hidden_dropout_prob={0},attention_probs_dropout_prob={0}",
    "clm": "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,mem_len=8,segment_length=8,attention_window=12"
    ",hidden_dropout={0},attention_dropout={0}",
}
ROWS = 6  # of a step, which 1, 2 and 3 processes can share


class SmallRuns:
    """What all of them read, in one folder. write_corpus: the fixture's function."""

    def __init__(self, folder, tokenizer, write_corpus):
        self.folder, self.tokenizer = folder, tokenizer
        words = ["北京大学", "天安门我爱你", "生命起源", "今天气很不错"]
        texts = [
            {"text": "".join(words[place * number % 4] for place in range(number % 7 + 2))} for number in range(60)
        ]
        rows = [
            {"sentence": words[number % 4] + "！？"[number % 2], "label": "yn"[number % 2]} for number in range(30)
        ]
        for name, records in (("texts", texts), ("rows", rows)):
            (folder / f"{name}.json").write_text("".join(json.dumps(record) + "\n" for record in records))
        loaded = load_tokenizer(str(tokenizer), "--tokenizer")
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        torch.manual_seed(0)
        AutoModel.from_config(BertConfig(vocab_size=len(loaded), **shape)).save_pretrained(folder / "encoder")
        loaded.save_pretrained(folder / "encoder")
        write_corpus(folder / "corpus", tokenizer)

    def words(self, script, output_dir, processes=1, dropout=0, **changes):
        """The command line with ROWS rows a step over so many processes."""
        values = {"max_steps": 8, "save_steps": 3, "logging_steps": 1, "output_dir": output_dir}
        if script == "glue":
            rows = self.folder / "rows.json"
            values |= {"kind": "classification", "train_file": rows, "validation_file": rows, "lr": 1e-3}
            values |= {"model": self.folder / "encoder", "device": "cpu", "eval_steps": 3, "dropout": dropout}
            values |= {"batch_size": ROWS // processes}
        else:
            values |= {"do_train": True, "use_cpu": True, "report_to": "none", "seed": 7, "learning_rate": 1e-3}
            values |= {"tokenizer_name": self.tokenizer, "config_overrides": SHAPES[script].format(dropout)}
            values |= {"per_device_train_batch_size": ROWS // processes}
            values |= {"train_file": self.folder / "texts.json"} if script == "clm" else {}
            values |= {"train_dir": self.folder / "corpus"} if script != "clm" else {}
            values |= (
                {"checkpoint_percents": 100, "warmup_steps": 2, "dataloader_num_workers": 0}
                if script == "electra"
                else {}
            )
        pairs = (values | changes).items()
        return [str(word) for name, value in pairs for word in ((f"--{name}", value)[: 1 if value is True else 2])]

    def run(self, script, output_dir, **changes):
        """Run it in this process."""
        return importlib.import_module(SCRIPTS[script]).main(self.words(script, output_dir, **changes))
