"""Finetune and evaluate an encoder on tasks of GLUE and CLUE, or on your own files.

One task and one seed run here; several tasks, --grid or --seeds are jobs of a queue over GPUs or CPUs. The same
command goes on where it was stopped. Each job leaves result.json, predictions and its best weights in
OUTPUT_DIR/<task>/<configuration>/seed<k>. Flags are those of --help; a JSON or YAML file of them works as well.
"""

import sys

from training.pretrained import ArgumentError, load_config, load_tokenizer, refuse_unknown_names, resolve_pretrained

if __name__ == "__main__":  # a mistyped name is told before the seconds that the imports below take
    try:
        refuse_unknown_names(sys.argv[1:], ("--model", "--model_name_or_path", "--tokenizer"))
    except ArgumentError as error:
        sys.exit(f"run_glue.py: {error}")

import json
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import set_seed

import models  # noqa: F401  registers the model types
from data.collators import TaskCollator
from data.features import Features, make_eval_batches, make_train_batches
from data.judging import Judge
from data.metrics import merge_splits
from data.sampling import CorpusRows
from data.task_data import describe_splits, label_array, make_all_features, read_task, write_verdicts
from data.tasks import Split, Task, TaskError, expand_tasks, find_task
from models.post_norm import quicken
from models.stock import longest_row
from models.task_heads import HEAD_CLASSES, has_head, load_encoder, new_task_model, takes_token_types
from training.adversary import FastGradient
from training.architecture import check_vocabulary, load_model
from training.arguments import RunArguments, parse_arguments, settle_steps
from training.evaluation import EvalRows, Evaluator
from training.finetune_arguments import JobArguments, SweepArguments, flag_names
from training.finetune_objectives import make_objective
from training.finetuning import (
    BEST,
    TRAIN_LOG,
    JobRecord,
    class_weights,
    describe_run,
    finish,
    keep_model,
    keep_selected,
    run_arguments,
    surroundings,
    train,
)
from training.grid import parse_grid, parse_init_from_task, parse_seeds, plan_jobs, write_job
from training.label_names import label_numbers
from training.layer_decay import layer_factors
from training.run import set_up_process
from training.sweep import describe, find_devices, run_jobs
from training.trainer import Trainer

logger = logging.getLogger(__name__)


def main(argv=None) -> list[dict]:
    """Run the jobs that the flags say; returns the results of those that are finished.

    SystemExit, which names what failed, when a job did.
    """
    flags, args = parse_arguments([JobArguments, SweepArguments], argv)
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level, stream=sys.stderr)
    if args.device == "gpu" and not torch.cuda.is_available():
        logger.warning("--device gpu: there is no GPU here, using the CPU")
    use_cpu = args.device == "cpu"
    if args.job:
        return [run_job(Path(args.job), use_cpu)]
    jobs = list_jobs(flags, args)
    failures = []
    if len(jobs) == 1:
        write_job(jobs[0])
        run_job(jobs[0].folder, use_cpu)
    else:
        devices = find_devices(args.gpus, use_cpu)
        failures = run_jobs(
            jobs, [sys.executable, os.path.abspath(__file__)], devices, args.jobs_per_gpu, args.max_retries
        )
    results = [result for job in jobs if (result := JobRecord.read(job.folder).result()) is not None]
    for result in results:
        print(json.dumps({name: result[name] for name in ("task", "config", "seed", "metrics", "test")}))
    if failures:
        raise SystemExit(describe(failures))
    return results


def list_jobs(flags: JobArguments, args: SweepArguments) -> list:
    """One job for each task, combination of --grid and seed. ArgumentError and TaskError for flags that give none."""
    for name, value in (("model", flags.model), ("output_dir", args.output_dir)):
        if value is None:
            raise ArgumentError(f"--{name} must be given, got none; add it")
    sources, names = {}, [args.tasks or "adhoc"]
    if flags.kind is None:
        if args.tasks is None:
            raise ArgumentError("--tasks must name tasks or groups, got none; add it, or --kind for files of your own")
        tasks = expand_tasks(args.tasks, flags.data_dir)
        names = [task.name for task in tasks]
        usual = {task.name: task.init_from for task in tasks if task.init_from and args.init_from_task == "auto"}
        typed = {} if args.init_from_task == "auto" else parse_init_from_task(args.init_from_task)
        typed = {find_task(target).name: find_task(source).name for target, source in typed.items()}
        needed = {task.name: task.model_of for task in tasks if task.model_of}
        sources = typed | {target: source for target, source in (usual | needed).items() if source in names}
    grid, seeds = parse_grid(args.grid, flag_names()), parse_seeds(args.seeds)
    return plan_jobs(names, flags.changed(), grid, seeds, args.output_dir, sources)


@dataclass
class Prepared:
    """What a job works with. scored: splits to select by; asked: splits to predict besides."""

    job: JobRecord
    settings: JobArguments
    task: Task
    splits: dict[str, Split]
    training: bool
    scored: list[str]
    asked: list[str]
    args: RunArguments | None = None
    tokenizer: object = None
    model: torch.nn.Module | None = None
    label_ids: dict[str, int] | None = None
    features: dict[str, Features] | None = None


def run_job(folder: Path, use_cpu: bool = False) -> dict:
    """Train, evaluate and predict as the folder's job.json says; returns result.json, of a finished job at once."""
    job = JobRecord.read(folder)
    if (result := job.result()) is not None:
        logger.info("%s is finished", folder)
        return result
    started = time.perf_counter()
    made = read_job(job)
    made.args = run_arguments(made.settings, folder, job.seed, selector(made), use_cpu)
    set_up_process(made.args)
    set_seed(job.seed)
    made.tokenizer, made.model, made.label_ids = make_model(made)
    made.features = read_features(made)
    trainer = make_trainer(made)
    if made.training:
        if not train(trainer, folder):
            raise SystemExit("stopped; the same command goes on from here")
        keep_selected(trainer, folder, bool(made.scored) and made.settings.select == "best")
    result = describe_run(job, made.settings, trainer) | {"splits": describe_splits(made.splits, made.features)}
    result |= judge(made, trainer)
    result |= {"seconds": time.perf_counter() - started, **surroundings(made.args.device)}
    if made.args.should_save:
        finish(folder, result, made.settings.keep_model)
    return result


def read_job(job: JobRecord) -> Prepared:
    """What the job has to train on and to predict; ArgumentError and TaskError when there is nothing."""
    flags = job.arguments()
    task, splits = read_task(job.task, flags, flags.trains)
    training = flags.trains and task.train_split in splits
    scored = [name for name in task.eval_splits if name in splits and splits[name].labelled]
    tests = [name for name in task.test_splits if name in splits]
    asked = tests if flags.do_predict or not (training or scored) else []
    if flags.trains and not training:
        logger.warning("%s has no training data here: evaluating only", task.name)
    if not (training or scored or asked):
        raise ArgumentError(f"--tasks {task.name} must have data to train on or to predict, got {', '.join(splits)}")
    return Prepared(job, flags.settle(task.name, task.defaults), task, splits, training, scored, asked)


def selector(made: Prepared) -> str | None:
    """The metric that selects weights, None without a labelled validation split."""
    wanted, metrics = made.settings.metric_for_best, made.task.metrics
    if wanted is not None and wanted not in metrics:
        raise ArgumentError(f"--metric_for_best must be one of {', '.join(metrics)}, got {wanted}; choose one")
    return (wanted or metrics[0]) if made.scored else None


def make_model(made: Prepared) -> tuple:
    """Tokenizer, model, and its output of each label: with a fresh head to train, or as it was finetuned to judge."""
    task, settings, before = made.task, made.settings, made.job.init_from
    name = str(Path(before, BEST)) if before else settings.model
    if Path(name, "discriminator").is_dir():  # of a run of run_electra.py
        name = str(Path(name, "discriminator"))
    tokenizer = load_tokenizer(settings.tokenizer or name, "--tokenizer" if settings.tokenizer else "--model")
    config, numbers = load_config(name, "--model"), {label: number for number, label in enumerate(task.labels)}
    if settings.arch not in (None, config.model_type):
        raise ArgumentError(
            f"--arch must be {config.model_type}, that of --model {name}, got {settings.arch}; drop it"
        )
    if not made.training and (settings.do_eval or has_head(config, task.kind)):
        model = load_model(HEAD_CLASSES[task.kind], config, name, "--model", tokenizer)
        if task.labels:
            numbers = label_numbers(task.labels, model.config.id2label, settings.label_order, name)
        return tokenizer, model, numbers
    check_vocabulary(config, name, "--model", tokenizer)
    try:
        model = new_task_model(config, task.kind, task.labels, settings.head, settings.dropout)
        if not settings.random_init:
            load_encoder(model, resolve_pretrained(name, "--model"))
    except ValueError as error:
        raise ArgumentError(f"--model {error}") from error
    if not made.training:
        logger.warning("%s has no head for %s: the scores are those of a random one", name, task.name)
    return tokenizer, quicken(model), numbers


def read_features(made: Prepared) -> dict[str, Features]:
    settings, task, most = made.settings, made.task, longest_row(made.model)
    length = settings.max_length or min(task.max_length, most or task.max_length)
    if most is not None and length > most:
        raise ArgumentError(f"--max_length must be at most the {most} positions of the model, got {length}; lower it")
    types = takes_token_types(made.model) if settings.token_types == "auto" else settings.token_types == "yes"
    wanted = [*([task.train_split] if made.training else []), *made.scored, *made.asked]
    splits = {name: made.splits[name] for name in wanted}
    options = {"max_length": length, "token_types": types, "label_ids": made.label_ids}
    return make_all_features(task, splits, settings, made.tokenizer, **options)


def make_trainer(made: Prepared) -> Trainer:
    settings, args, task = made.settings, made.args, made.task
    batches = weights = None
    rows = made.features[task.train_split] if made.training else None
    if rows is not None:
        settle_steps(args, rows.lengths)
        share = (args.train_batch_size, args.gradient_accumulation_steps, args.world_size, args.process_index)
        batches = make_train_batches(rows, *share, steps=args.max_steps, seed=args.seed)
        labels = label_array(task, made.splits[task.train_split], made.label_ids)
        weights = class_weights(settings.class_weights, labels, len(task.labels))
    longest = max(int(features.lengths.max()) for features in made.features.values())
    decay, offset = settings.lwlrd, settings.lwlrd_offset or 1
    trainer = Trainer(
        model=made.model,
        args=args,
        processing_class=made.tokenizer,
        objective=make_objective(task.kind, settings, longest, weights),
        train_dataset=rows and CorpusRows(rows),
        train_batches=batches,
        data_collator=collator(made),
        eval_dataset=[],
        evaluator=make_evaluator(made, made.scored),
        log_file=TRAIN_LOG,
        rate_factors=layer_factors(made.model, decay, offset) if decay else None,
        adversary=FastGradient(settings.fgm_eps) if settings.fgm_eps else None,
        keep_best=lambda: keep_model(trainer, made.job.folder),
        patience=settings.patience,
    )
    return trainer


def collator(made: Prepared) -> TaskCollator:
    return TaskCollator(made.task.kind, made.tokenizer.pad_token_id, 8 if made.args.bf16 or made.args.fp16 else 1)


def make_evaluator(made: Prepared, names: list[str]) -> Evaluator:
    args, options = made.args, {"chid_decode": made.settings.chid_decode}
    judges = {}
    for name in names:
        features = made.features[name]
        batches = make_eval_batches(features, args.eval_batch_size, args.world_size, args.process_index)
        found = Judge(made.task, made.splits[name], features, made.label_ids, options)
        judges[name] = EvalRows(features.rows, batches, collator(made)), found
    return Evaluator(judges, partial(merge_splits, made.task))


def judge(made: Prepared, trainer: Trainer) -> dict:
    """Judge all splits with the selected weights and write what was predicted; returns their metrics."""
    result = {"metrics": {}, "test": {}, "degenerate": False}
    for key, prefix, names in (("metrics", "eval", made.scored), ("test", "test", made.asked)):
        if names:
            evaluator = make_evaluator(made, names)
            result[key] = evaluator(trainer)
            result["degenerate"] |= any(verdict.degenerate for verdict in evaluator.verdicts.values())
            if made.args.should_save:
                path = made.job.folder / f"{prefix}_preds.jsonl"
                write_verdicts(path, made.task, made.splits, evaluator.verdicts)
    return result


if __name__ == "__main__":
    try:
        main()
    except (ArgumentError, TaskError) as error:
        sys.exit(f"run_glue.py: {error}")
