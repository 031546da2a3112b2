"""Samples per CPU-second of finetuning: our batches against those of transformers' own run_glue recipe.

    python benchmarks/finetune_step.py --train_file train.tsv --tokenizer FOLDER   two new models, 12 minutes on a core
    python benchmarks/finetune_step.py --train_file train.tsv --model FOLDER       a pretrained one

The file is UER's ChnSentiCorp train.tsv or laid out like it: tab separated, columns label and text_a. The recipe of
run_glue.py of transformers: datasets.map with padding="max_length" and truncation, a shuffling DataLoader, its default
collator. Ours: data/features/build.py and TaskCollator, rows of like length together, padded to the longest. Both
feed one model with one AdamW (fused), clipping at 1.0, dropout, dtype, threads and allocator settings and take turns
in one process, a block of steps each. A block's CPU time is all of making batches, forward, backward and update;
preparation (tokenising the whole file) is timed once for each and counts into the figure of an epoch. The figures are
medians over blocks. Ours sorts the rows of 50 steps by length: blocks of so many hold rows of every length.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSequenceClassification, default_data_collator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models  # noqa: F401  registers the model types
from benchmarks.measuring import DTYPES, add_options, in_child, report
from data.batches.sampling import BUCKET_STEPS, EpochRows
from data.features.build import TaskCollator, make_features, make_train_batches
from data.tasks.own_files import adhoc_task
from training.pretrained import load_tokenizer

SIDES = ("run_glue", "ours")
MAX_GRAD_NORM, MANY = 1.0, 1_000_000
SIZES = {
    "small": {"num_hidden_layers": 4, "hidden_size": 256},
    "base": {"num_hidden_layers": 12, "hidden_size": 768},
    "tiny": {"num_hidden_layers": 1, "hidden_size": 32},
}


def run_glue_batches(records: list[dict], labels: dict[str, int], tokenizer, args) -> DataLoader:
    """Padded to max_length, in random order."""

    def tokenize(rows: dict) -> dict:
        return tokenizer(rows["sentence"], padding="max_length", max_length=args.max_length, truncation=True)

    columns = {"sentence": [record["text_a"] for record in records]}
    columns["label"] = [labels[record["label"]] for record in records]
    dataset = Dataset.from_dict(columns).map(tokenize, batched=True, remove_columns="sentence")
    return DataLoader(dataset, args.batch, shuffle=True, drop_last=True, collate_fn=default_data_collator)


def our_batches(task, records: list[dict], labels: dict[str, int], tokenizer, args) -> DataLoader:
    """Padded to the longest row of the batch, rows of like length together."""
    features = make_features(
        task,
        records,
        tokenizer,
        max_length=args.max_length,
        training=True,
        token_types="token_type_ids" in tokenizer.model_input_names,
        label_ids=labels,
    )
    batches = make_train_batches(features, args.batch, 1, 1, 0, steps=MANY, seed=0)
    collator = TaskCollator(task.kind, tokenizer.pad_token_id, 8 if args.dtype == "bf16" else 1)
    return DataLoader(EpochRows(features), batch_sampler=batches, collate_fn=collator)


class Trainee:
    """The model, its optimizer and the step that both sides share."""

    def __init__(self, family: str, size: int, tokenizer, args):
        torch.manual_seed(0)
        if args.model:
            self.model = AutoModelForSequenceClassification.from_pretrained(
                args.model, num_labels=size, trust_remote_code=False
            )
        else:
            fields = SIZES[args.size] | {"vocab_size": len(tokenizer), "num_labels": size}
            width = fields["hidden_size"]
            if family == "bert":
                fields |= {"num_attention_heads": width // 32, "intermediate_size": 4 * width}
            elif family == "gau_alpha":
                fields["intermediate_size"] = 2 * width
            config = AutoConfig.for_model(family, **fields)
            self.model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-5, fused=True)
        self.dtype = DTYPES[args.dtype]

    def outputs(self, batch: dict[str, torch.Tensor]):
        with torch.autocast("cpu", self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return self.model(**batch)

    def block(self, batches: Iterator[dict], steps: int) -> float:
        """Samples per CPU-second of some steps, over all threads."""
        samples, start = 0, time.process_time()
        for batch in islice(batches, steps):
            self.outputs(batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
            samples += len(batch["labels"])
        return samples / (time.process_time() - start)


def endless(loader: DataLoader) -> Iterator[dict]:
    while True:
        yield from loader


def check_equal(trainee: Trainee, task, records, labels, tokenizer, args) -> None:
    """ValueError unless both sides give the model the same tokens, and their logits are equal, padded or not."""
    records = records[: args.batch]
    theirs = default_data_collator(list(run_glue_batches(records, labels, tokenizer, args).dataset))
    features = our_batches(task, records, labels, tokenizer, args).dataset.source
    ours = TaskCollator(task.kind, tokenizer.pad_token_id)(features.rows(range(len(features))))
    trainee.model.eval()
    with torch.no_grad():
        difference = (trainee.outputs(theirs).logits - trainee.outputs(ours).logits).abs().max().item()
    trainee.model.train()
    tokens = [side["input_ids"][side["attention_mask"] > 0].tolist() for side in (theirs, ours)]
    if tokens[0] != tokens[1] or difference > (1e-4 if args.dtype == "fp32" else 5e-2):
        raise ValueError(f"rows of both sides must be equal, got logits that differ by {difference}")


def measure(family: str, args) -> dict:
    """One row of the table."""
    disable_progress_bars()
    tokenizer = load_tokenizer(args.tokenizer or args.model, "--tokenizer")
    task, splits = adhoc_task("classification", args.train_file, None, None, "text_a", "label")
    records, labels = splits["train"].records, {label: number for number, label in enumerate(task.labels)}
    trainee = Trainee(family, len(labels), tokenizer, args)
    check_equal(trainee, task, records, labels, tokenizer, args)
    loaders, preparation = {}, {}
    for name, prepare in (
        ("run_glue", lambda: run_glue_batches(records, labels, tokenizer, args)),
        ("ours", lambda: our_batches(task, records, labels, tokenizer, args)),
    ):
        start = time.process_time()
        loaders[name] = endless(prepare())
        preparation[name] = time.process_time() - start
    for name in SIDES:
        trainee.block(loaders[name], 1)
    rates = [{name: trainee.block(loaders[name], args.steps) for name in SIDES} for _ in range(args.rounds)]
    steps = {name: statistics.median(rate[name] for rate in rates) for name in SIDES}
    epochs = {name: len(records) / (preparation[name] + len(records) / steps[name]) for name in SIDES}
    return {
        "model": args.model.name if args.model else f"{family} {args.size}",
        "dtype": args.dtype,
        "batch": args.batch,
        "max_length": args.max_length,
        "rows": len(records),
        "ratio_steps": round(statistics.median(rate["ours"] / rate["run_glue"] for rate in rates), 2),
        "ratio_epoch": round(epochs["ours"] / epochs["run_glue"], 2),
        **{f"samples_per_cpu_second_{name}": round(epochs[name], 1) for name in SIDES},
        **{f"preparation_cpu_seconds_{name}": round(preparation[name], 2) for name in SIDES},
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="TSV with the columns label and text_a")
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; else new models of --families and --size")
    parser.add_argument("--tokenizer", help="folder of the tokenizer, if not the model's")
    parser.add_argument("--families", nargs="+", choices=["gau_alpha", "bert"], default=["gau_alpha", "bert"])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step")
    parser.add_argument("--max_length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16 is autocast")
    parser.add_argument("--steps", type=int, default=BUCKET_STEPS, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each side")
    add_options(parser)
    args = parser.parse_args(argv)
    if not args.model and not args.tokenizer:
        parser.error("--tokenizer or --model must be given")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    families = args.families[:1] if args.model else args.families
    report("finetune_step", (in_child(measure, family, args) for family in families), argv, args)


if __name__ == "__main__":
    main()
