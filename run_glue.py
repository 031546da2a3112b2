"""Finetune and evaluate an encoder on tasks of GLUE and CLUE, or on your own files.

    printf 'label\\ttext\\ngood\\tfast and exact\\nbad\\tslow and wrong\\n' > outputs/mine/notes.tsv
    python run_glue.py --model_name_or_path outputs/mine/model --kind classification --num_train_epochs 2 \\
        --train_file outputs/mine/notes.tsv --validation_file outputs/mine/notes.tsv --output_dir outputs/mine/notes

The model is what the example of run_mlm_wwm.py trains; tasks by name: --tasks afqmc --data_dir FOLDER.

One task and one seed run here; several tasks, --grid or --seeds are jobs of a queue over GPUs or CPUs. The same
command goes on where it was stopped. Each job leaves result.json, predictions and its best weights in
OUTPUT_DIR/<task>/<configuration>/seed<k>. Flags are those of --help; a JSON or YAML file of them works as well.
"""

import sys

from common.errors import ArgumentError
from common.flags import flag_name
from common.script import one_line_errors, run_script
from training.pretrained import refuse_unknown_names

if __name__ == "__main__":  # a mistyped name is told before the seconds that the imports below take
    with one_line_errors():
        names = ("--model", "--model_name_or_path", "--tokenizer", "--tokenizer_name_or_path")
        refuse_unknown_names(sys.argv[1:], names)

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import set_seed

from data.batches.sampling import EpochRows, padding_share
from data.features.build import (
    Features,
    TaskCollator,
    describe_splits,
    label_array,
    make_all_features,
    make_eval_batches,
    make_train_batches,
    row_tokens,
)
from data.scoring.boards import averages
from data.scoring.item_sums import items
from data.scoring.metrics import SplitScorer, merge_splits
from data.scoring.predictions import write_verdicts
from data.scoring.submission import make_submissions
from data.tasks import plan as task_data
from data.tasks.loading import Split
from data.tasks.task import Task
from models import task_heads
from models.stock import longest_row
from models.task_heads import takes_token_types
from training.arguments import RunArguments, parse_arguments, settle_steps
from training.finetune import steps
from training.finetune.arguments import JobArguments, SweepArguments, flag_names, grid_of_flags, label_of_flags
from training.finetune.extension import FastGradient, FinetuneExtension
from training.finetune.job import BEST, Job, best_folder, log_to_console, move_jobs_aside, read_result
from training.finetune.replaced_flags import REPLACED
from training.finetune.task_model import EvalRows, Evaluator, TaskModel, make_task_model, output_names
from training.loop.optimizers import layer_factors
from training.loop.run_report import RunReport, tell_results, tell_sweep
from training.loop.trainer import Trainer
from training.objectives.tasks import make_objective
from training.process import set_up_process
from training.sharing.hub import make_repositories, push_folders
from training.sweep.grid import parse_grid, parse_init_from_task, parse_seeds, plan_jobs
from training.sweep.queue import describe, find_devices, run_jobs
from training.sweep.results import summarise

logger = logging.getLogger(__name__)


def main(argv=None, script: str = __file__) -> list[dict]:
    """Run the jobs that the flags say; returns the results of those that are finished.

    script: what runs one of several jobs, another one where it adds tasks and calls this (docs/extending.md).
    SystemExit, which names what failed, when a job did.
    """
    flags, args = parse_arguments([JobArguments, SweepArguments], argv, REPLACED, __doc__)
    log_to_console()
    use_cpu = args.device == "cpu"
    if args.job:
        return [run_job(Path(args.job), use_cpu)]
    jobs, failures, first = list_jobs(flags, args), [], int(os.environ.get("RANK", "0")) == 0
    if args.device == "gpu" and not torch.cuda.is_available():
        logger.warning("--device gpu: there is no GPU here, using the CPU")
    repositories = {}
    if args.push_to_hub and first:
        tasks = {job.task for job in jobs}
        repositories = make_repositories(args, {f"-{task}" if len(tasks) > 1 else "": task for task in tasks})
    if not args.resume:
        move_jobs_aside([job.folder for job in jobs])
    if len(jobs) == 1:
        jobs[0].write()
        run_job(jobs[0].folder, use_cpu)
    else:
        command, devices = [sys.executable, os.path.abspath(script)], find_devices(args.gpus, use_cpu)
        tell_sweep(jobs, devices, args.jobs_per_gpu, args.output_dir)
        failures = run_jobs(jobs, command, devices, args.jobs_per_gpu, args.max_retries)
    finished = [(job, result) for job in jobs if (result := read_result(job.folder)) is not None]
    results = [result for _, result in finished]
    for job, result in finished:
        files = {split: str(job.folder / name) for split, name in result.get("predictions", {}).items()}
        shown = {name: result[name] for name in ("task", "config", "seed", "metrics", "test")}
        print(json.dumps(shown | {"predictions": files}, ensure_ascii=False))
    if results and first:
        conclude(args, flags.kind is None, repositories)
    if failures:
        raise SystemExit(describe(failures))
    return results


def conclude(args: SweepArguments, known: bool, repositories: Mapping[str, str]) -> None:
    """Sum up all results below --output_dir, of known or own tasks; make the files to submit from what is chosen.

    repositories: of a hub, for the best weights of these tasks.
    """
    out = Path(args.output_dir)
    summary = summarise(out, label_of_flags(args.baseline), averages, items if known else None)
    print((out / "summary.md").read_text(encoding="utf-8"))
    folders = {row["task"]: best_folder(row) for row in summary["configurations"] if row["chosen"]}
    tell_results(out, folders)
    if args.submission_dir:
        versions = {"clue_version": args.clue_version, "wnli_majority": args.wnli_majority}
        make_submissions(args.submission_dir, folders, team=args.team, date=time.strftime("%Y%m%d"), **versions)
    push_folders({Path(folders[task], BEST): name for task, name in repositories.items() if task in folders}, args)


def list_jobs(flags: JobArguments, args: SweepArguments) -> list[Job]:
    """One job for each task, combination of --grid and seed. ArgumentError and TaskError for flags that give none."""
    for name, value in (("model", flags.model), ("output_dir", args.output_dir)):
        if value is None:
            raise ArgumentError(f"--{flag_name(name)} must be given, got none; add it")
    if args.push_to_hub and not (flags.trains and flags.keep_model):
        raise ArgumentError("--push_to_hub pushes the weights that a training keeps; leave it out, or let it train")
    if args.submission_dir and not flags.do_predict:
        raise ArgumentError("--submission_dir needs the predictions of the tests; add --do_predict")
    starts = None if args.init_from_task == "auto" else parse_init_from_task(args.init_from_task)
    names, sources = task_data.choose_tasks(args.tasks, flags.kind, flags.data_dir, starts)
    if sources and not flags.keep_model:
        raise ArgumentError("--no_keep_model must be left out where tasks start from another one's weights")
    grid, seeds = parse_grid(grid_of_flags(args.grid), flag_names()), parse_seeds(args.seeds)
    return plan_jobs(names, flags.changed(), grid, seeds, args.output_dir, sources)


@dataclass(frozen=True)
class JobData:
    """What a job reads before its folder is held: flags with a value each, records, what is done with them."""

    job: Job
    settings: JobArguments
    task: Task
    splits: dict[str, Split]
    plan: task_data.Plan
    args: RunArguments


def run_job(folder: Path, use_cpu: bool = False) -> dict:
    """Train, evaluate and predict as the folder's job.json says; returns result.json, of a finished job at once."""
    job = Job.read(folder)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # else the first process decides for all, once they know it
    if alone and (result := read_result(folder)) is not None:
        logger.info("%s is finished", folder)
        return result
    started = time.perf_counter()
    data = read_job(job, use_cpu)
    set_up_process(data.args)
    with steps.held(folder, data.args) as result:
        if result is not None:
            logger.info("%s is finished", folder)
            return result
        return finish_job(data, started)


def read_job(job: Job, use_cpu: bool) -> JobData:
    """Flags and records. ArgumentError and TaskError where they do not serve.

    A finetuned model is not trained under --do_predict alone; what it predicts are its own labels.
    """
    flags = steps.job_arguments(job)
    outputs = output_names(flags, start_of(job, flags), task_data.kind_of(job.task, flags), task_heads)
    only_predicts = flags.do_predict and not flags.do_train and outputs is not None and not job.init_from
    trains = flags.trains and not only_predicts
    if only_predicts and flags.trains:
        logger.info("--do_predict alone: %s is finetuned and predicts as it is; --do_train trains it", flags.model)
    task, splits = task_data.read_task(job.task, flags, trains, outputs=None if trains else outputs)
    plan = task_data.Plan.of(task, splits, trains, flags.do_predict)
    settings = flags.settle(task.name, task.defaults)
    if plan.training and not plan.scored:
        for flag in ("patience", "metric_for_best"):
            if getattr(settings, flag) is not None:
                raise ArgumentError(
                    f"--{flag_name(flag)} needs validation rows with labels, got none; add them or leave it out"
                )
        logger.info("%s has no validation rows with labels: the last weights are kept", task.name)
    metric = settings.metric_for_best or task.metrics[0]
    if metric not in task.metrics:
        raise ArgumentError(
            f"--metric_for_best_model must be one of {', '.join(task.metrics)}, got {metric}; choose one"
        )
    args = steps.run_arguments(settings, job.folder, job.seed, metric if plan.scored else None, use_cpu)
    return JobData(job, settings, task, splits, plan, args)


def start_of(job: Job, settings: JobArguments) -> str:
    """The model that a job starts from."""
    return str(job.init_from / BEST) if job.init_from else settings.model


def finish_job(data: JobData, started: float) -> dict:
    """What is left to do of a job whose folder is held; returns what result.json then holds."""
    job, folder, settings = data.job, data.job.folder, data.settings
    set_seed(job.seed)
    model = make_task_model(data.task, settings, start_of(job, settings), data.plan, task_heads)
    features = read_features(data, model)
    checkpoint, args = steps.find_checkpoint(folder, data.args)
    trainer = make_trainer(data, model, features, args)
    if data.plan.training:
        if not steps.train(trainer, checkpoint):
            raise SystemExit("stopped; the same command goes on from here")
        steps.keep_selected(trainer, folder, bool(data.plan.scored) and settings.select == "best")
    result = steps.describe_run(job, settings, trainer)
    result |= {"splits": describe_splits(data.splits, features), **score_splits(data, model, features, trainer)}
    result |= {"seconds": time.perf_counter() - started, **steps.surroundings(data.args.device)}
    if data.args.should_save:
        steps.finish(folder, result, settings.keep_model)
    return result


def read_features(data: JobData, model: TaskModel) -> dict[str, Features]:
    """Rows of the splits that the job needs, as long as flags and model say."""
    settings, task, most = data.settings, data.task, longest_row(model.model)
    length = settings.max_length or min(task.max_length, most or task.max_length)
    if most is not None and length > most:
        raise ArgumentError(
            f"--max_seq_length must be at most the {most} positions of the model, got {length}; lower it"
        )
    types = takes_token_types(model.model) if settings.token_types == "auto" else settings.token_types == "yes"
    splits = {name: data.splits[name] for name in data.plan.wanted(task)}
    options = {"max_length": length, "token_types": types, "label_ids": model.label_ids}
    return make_all_features(task, splits, settings, model.tokenizer, **options)


def make_trainer(data: JobData, model: TaskModel, features: dict[str, Features], args: RunArguments) -> Trainer:
    """args: the Trainer's own, which get the number of its steps."""
    settings, task = data.settings, data.task
    batches = weights = None
    rows = features[task.train_split] if data.plan.training else None
    if rows is not None:
        settle_steps(args, row_tokens(rows))
        share = (args.train_batch_size, args.gradient_accumulation_steps, args.data_processes, args.data_process)
        batches = make_train_batches(rows, *share, steps=args.max_steps, seed=args.seed)
        batches.padding = padding_share(batches, rows, collator(data, model).multiple)
        labels = label_array(task, data.splits[task.train_split], model.label_ids)
        weights = steps.class_weights(settings.class_weights, labels, len(task.labels))
    longest = max(int(split.lengths.max()) for split in features.values())
    decay, offset = settings.lwlrd, settings.lwlrd_offset or 1
    extension = FinetuneExtension(
        data.job.folder,
        rate_factors=layer_factors(model.model, decay, offset) if decay else {},
        patience=settings.patience,
        adversary=FastGradient(settings.fgm_eps) if settings.fgm_eps else None,
    )
    return Trainer(
        model=model.model,
        args=args,
        processing_class=model.tokenizer,
        objective=make_objective(task.kind, settings, longest, weights),
        train_dataset=rows and EpochRows(rows),
        train_batches=batches,
        data_collator=collator(data, model),
        evaluator=make_evaluator(data, model, features, data.plan.scored),
        extension=extension,
        callbacks=[RunReport(args, batches, row_tokens(rows))] if batches else None,
    )


def collator(data: JobData, model: TaskModel) -> TaskCollator:
    return TaskCollator(data.task.kind, model.tokenizer.pad_token_id, 8 if data.args.bf16 or data.args.fp16 else 1)


def make_evaluator(data: JobData, model: TaskModel, features: dict[str, Features], names: Sequence[str]) -> Evaluator:
    """Of these splits."""
    args, settings = data.args, data.settings
    options = {"chid_decode": settings.chid_decode, "n_best": settings.n_best, "max_answer": settings.max_answer}
    splits = {}
    for name in names:
        rows = features[name]
        batches = make_eval_batches(rows, args.eval_batch_size, args.data_processes, args.data_process)
        scorer = SplitScorer(data.task, data.splits[name], rows, model.label_ids, options)
        splits[name] = EvalRows(EpochRows(rows), batches, collator(data, model)), scorer
    return Evaluator(splits, partial(merge_splits, data.task))


def score_splits(data: JobData, model: TaskModel, features: dict[str, Features], trainer: Trainer) -> dict:
    """Score all splits with the selected weights and write what was predicted; returns their metrics and the files."""
    task, plan = data.task, data.plan
    result = {"primary": data.args.metric_for_best_model, "metrics": {}, "test": {}, "degenerate": False}
    result |= {"columns": task.columns, "predictions": {}}
    for key, prefix, names in (("metrics", "eval", plan.scored), ("test", "test", plan.asked)):
        if names:
            evaluator = make_evaluator(data, model, features, names)
            result[key] = evaluator(trainer)
            result["degenerate"] |= any(verdict.degenerate for verdict in evaluator.verdicts.values())
            if data.args.should_save:
                path = data.job.folder / f"{prefix}_preds.jsonl"
                write_verdicts(path, task, data.splits, evaluator.verdicts)
                logger.info("%s: predictions of %s in %s", task.name, ", ".join(names), path)
                result["predictions"][prefix] = path.name
    return result


if __name__ == "__main__":
    run_script(main)
