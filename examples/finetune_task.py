"""Finetune a classification task with plain PyTorch and accelerate: no Trainer, one file to read and to change.

    python examples/finetune_task.py --model_name_or_path outputs/mine/model --output_dir outputs/mine/finetuned \\
        --train_file outputs/mine/notes.tsv --validation_file outputs/mine/notes.tsv
    torchrun --nproc_per_node 2 examples/finetune_task.py ...      # on two devices; or accelerate launch

Files are TSV, CSV or JSONL with one or two columns of text and a column `label`; --batch_size is of all processes.
"""

import inspect
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup, set_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models  # noqa: F401  (this repository's encoders join the Auto classes)
from common.flags import FlagParser
from common.script import run_script
from data.features.build import TaskCollator, combine, make_features
from data.scoring.metrics import score
from data.scoring.predictions import decode
from data.tasks.own_files import adhoc_task
from training.pretrained import load_tokenizer


def main(argv=None) -> dict[str, float]:
    parser = FlagParser(doc=__doc__)
    for name in ("model", "train_file", "validation_file", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in {"lr": 2e-5, "epochs": 3, "batch_size": 32, "max_length": 128, "seed": 42}.items():
        alone = name == "batch_size"  # not of a device, as elsewhere
        parser.add_argument(f"--{name}", type=type(default), default=default, help="default: %(default)s", alone=alone)
    args = parser.parse_args(argv)
    set_seed(args.seed)
    loading = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    # Without cpu=True, accelerate on a machine without a device makes every process a run of its own.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), dataloader_config=loading)
    task, splits = adhoc_task("classification", args.train_file, args.validation_file, None)
    validation = splits["validation"].records
    ids = {name: i for i, name in enumerate(task.labels)}
    tokenizer = load_tokenizer(args.model, "--model")
    options = {"id2label": dict(enumerate(task.labels)), "label2id": ids, "trust_remote_code": False}  # runs no code
    model = AutoModelForSequenceClassification.from_pretrained(args.model, **options)
    inputs = {"tokenizer": tokenizer, "max_length": args.max_length, "label_ids": ids}
    inputs["token_types"] = "token_type_ids" in inspect.signature(model.forward).parameters
    rows = make_features(task, splits["train"].records, training=True, **inputs)
    windows = make_features(task, validation, training=False, **inputs)
    batches = {"batch_size": args.batch_size, "collate_fn": TaskCollator(task.kind, tokenizer.pad_token_id)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    loader = accelerator.prepare(DataLoader(rows, shuffle=True, **batches))
    window_loader = accelerator.prepare(DataLoader(windows, **batches))
    schedule = get_linear_schedule_with_warmup(optimizer, 0, args.epochs * len(loader))
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    for epoch in range(args.epochs):
        model.train()
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():  # gather_for_metrics drops the rows that were repeated to fill the last batch
            logits = [accelerator.gather_for_metrics(model(**batch).logits).float().cpu() for batch in window_loader]
        scores = score(task, validation, decode(task, validation, combine(windows, torch.cat(logits).numpy())))
        accelerator.print(json.dumps({"epoch": epoch + 1, "processes": accelerator.num_processes} | scores))
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(args.output_dir)
        tokenizer.save_pretrained(args.output_dir)
    return scores


if __name__ == "__main__":
    run_script(main)
