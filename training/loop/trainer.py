"""The one Trainer of this repository: exact loss normalisation, token-weighted metrics, exact resumption.

It differs from transformers' Trainer in this:
- an objective (training/objectives/) gives sums and counts, and each term is divided by its count over the whole
  global batch, so that accumulation and processes change nothing;
- batches come from a sampler that is a pure function of the place in its stream, which the checkpoint records;
- logged numbers are sums over all micro-batches since the last log, and the checkpoint carries what has been summed;
- a checkpoint appears whole or not at all, and is loaded strictly;
- evaluation adds up sums and counts and never gathers logits.
"""

import copy
import errno
import json
import logging
import math
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate.utils import gather_object, send_to_device
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from common.errors import UNWRITTEN, ArgumentError, Stopped, UserError, describe_fault
from common.files import give_usual_rights
from training.files import PARTIAL, read_json, why_not_written
from training.flag_checks import check_optimizer, check_scheduler, flags_blamed
from training.loop.checkpoints import (
    COMPLETE,
    PROGRESS,
    STATE,
    SaveAfter,
    all_checkpoints,
    copy_random_state,
    process_of,
    publish,
    random_state_name,
    random_states,
    remove_partial,
    rotate,
)
from training.loop.finiteness import (
    NotFinite,
    Watch,
    all_finite,
    drop_gradients_unless_finite,
    rows_named,
    state_tensors,
)
from training.loop.layer_decay import split_by_rate
from training.loop.logs import ConsoleAndFile, TensorBoard, measured_peak, training_flops
from training.loop.metric_sums import Window, summary
from training.loop.model_parallel import ask_for, take_share
from training.loop.optimizers import AdamWithoutBiasCorrection, make_muon
from training.loop.schedules import FollowGlobalStep, RateAndMomentum, check_schedule, make_schedule
from training.loop.stopping import StopEarly, obey_parent_only
from training.loop.upstream import check_upstream
from training.peers import Peers
from training.process import keep_freed_memory
from training.run_folder import LOG_FILE

logger = logging.getLogger(__name__)


def _set_up_worker(number: int) -> None:
    """Loader workers allocate the same few arrays for each batch, and outlive a SIGTERM to the process group."""
    keep_freed_memory()
    obey_parent_only()


class Trainer(transformers.Trainer):
    """See the module.

    Args (keyword only, besides transformers' own):
        objective: what a step minimises and counts.
        train_batches: batch sampler with step_size, start, epoch_at(place) and a length of steps * accumulation.
        eval_batches, eval_collator: batch sampler and collator of this process's share of the evaluation data.
        kept_steps, export: after these steps a checkpoint is kept for good, and export(folder) adds to it.
        log_file: name of the log in output_dir.
        rate_factors: what the learning rate of parameters is multiplied with, by their names; 1 for all others.
        adversary: context manager of the model (finetune/adversary.py) in which a second backward of each step runs.
        evaluator: function of this trainer to numbers by their names, in place of the objective's sums.
        keep_best: called after an evaluation whose args.metric_for_best_model is above those of all earlier steps.
        patience: evaluations in a row that may pass without a better one before training stops; None for any number.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by counts of the whole step

    def __init__(
        self,
        *,
        objective,
        train_batches=None,
        eval_batches=None,
        eval_collator=None,
        kept_steps=(),
        export=None,
        log_file: str = LOG_FILE,
        rate_factors=None,
        adversary=None,
        evaluator=None,
        keep_best=None,
        patience: int | None = None,
        **kwargs,
    ):
        check_upstream()
        args = kwargs["args"]
        if train_batches is not None:
            args.max_steps = train_batches.steps
            args.ignore_data_skip = True  # the sampler itself starts at the right place
            if args.schedule is not None:
                warmup = args.get_warmup_steps(args.max_steps)
                check_schedule(args.schedule, args.max_steps, warmup, args.steps_before)
        self.kept = args.save_total_limit
        if args.metric_for_best_model is not None:
            args.save_total_limit = None  # else transformers deletes the newest checkpoint at the end
        tensorboard = "tensorboard" in args.report_to
        args.report_to = [name for name in args.report_to if name != "tensorboard"]
        if args.model_parallel_size > 1:
            ask_for(kwargs["model"], args)
        with flags_blamed(args):
            super().__init__(**kwargs)
        if args.data_process:  # other dropout than the first's, on other rows
            set_seed(args.seed + args.data_process)
        self.objective, self.train_batches = objective, train_batches
        self.eval_batches, self.eval_collator = eval_batches, eval_collator
        self.kept_steps, self.export = kept_steps, export
        self.rate_factors, self.adversary = rate_factors or {}, adversary
        self.evaluator, self.keep_best, self.patience = evaluator, keep_best, patience
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if tensorboard:
            self.add_callback(TensorBoard(args.logging_dir or str(Path(args.output_dir) / "runs")))
        self.add_callback(ConsoleAndFile(Path(args.output_dir) / log_file))
        self.stop = StopEarly(args.max_train_minutes, across_calls=args.schedule_by_time)
        self.add_callback(self.stop)
        self.add_callback(FollowGlobalStep())
        self.add_callback(SaveAfter(kept_steps))
        self._row_flops = (0.0, 0.0)
        self._start = (0, 0)  # step and place of the data stream that this call starts from
        self._step_batches: list[dict] = []  # of the running step, for the adversary
        self._window = Window()
        self._window_step = self._tokens_seen = 0  # as of the last log
        self._clock, self._peak = time.perf_counter(), 0.0
        scaled = self.accelerator.scaler is not None
        self._watch = Watch(args.nan_steps, args.on_nan == "skip", scaled, self._sum)
        self._check_metric()
        if train_batches is not None and not args.deepspeed and not args.fsdp:
            self._rehearse()

    def _check_metric(self) -> None:
        """ArgumentError where --metric_for_best_model is no number of the evaluation."""
        wanted, objective = self.args.metric_for_best_model, self.objective
        if wanted is None or self.evaluator is not None:
            return
        known = ["loss", *objective.metrics, *objective.histograms]
        known += [f"{term}_loss" for term in objective.weights] if len(objective.weights) > 1 else []
        known += ["perplexity"] if objective.perplexity_of is not None else []
        if wanted not in known:
            raise ArgumentError(f"--metric_for_best_model must be one of {', '.join(known)}, got {wanted}; choose one")

    def _rehearse(self) -> None:
        """Make optimiser and schedule once, before a folder is touched: ArgumentError where they cannot be made."""
        args = self.args
        if args.optimizer == "adamw":
            check_optimizer(args, self.model, self.get_optimizer_cls_and_kwargs)
        with flags_blamed(args, "--optim"):
            optimizer = self.create_optimizer()
        with flags_blamed(args, "--lr_scheduler_kwargs" if args.lr_scheduler_kwargs else "--lr_scheduler_type"):
            check_scheduler(self.create_scheduler(args.max_steps, optimizer), args.max_steps)
        self.optimizer = self.lr_scheduler = None
        self._created_lr_scheduler = False

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, "sum")

    # Data

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(
            self.train_dataset, self.train_batches, self.data_collator, self.args.dataloader_num_workers
        )

    def _loader(self, dataset, batches, collator, workers: int) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collator,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
            worker_init_fn=_set_up_worker,
            generator=torch.Generator(),  # its own, so that making an iterator leaves the model's random numbers alone
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            lengths = batch["attention_mask"].sum(-1, dtype=torch.float64)
            linear, square = self._row_flops
            self._window.count("tokens", int(lengths.sum()))
            self._window.count("flops", float(linear * lengths.sum() + square * lengths.square().sum()))
        return [send_to_device(batch, device, non_blocking=True) for batch in batches], counts

    # Loss

    def _get_num_items_in_batch(self, batch_samples, device) -> dict[str, torch.Tensor]:
        """Targets per term of the loss in the whole step, over all micro-batches and processes."""
        found = [self.objective.counts(batch) for batch in batch_samples]
        counts = torch.stack([sum(count[term] for count in found) for term in self.objective.weights])
        counts = self.accelerator.reduce(counts.to(device), "sum") / self.args.model_parallel_size
        counts = counts.clamp(min=1)
        return dict(zip(self.objective.weights, counts, strict=True))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's share of the step's loss, times the processes over which gradients are averaged."""
        sums, metrics = self.objective(model, inputs)
        loss = self._weighed(sums, num_items_in_batch)
        self._window.add("loss", loss)
        if len(sums) > 1:
            metrics |= {f"{term}_loss": (sums[term], self.objective.counts(inputs)[term]) for term in sums}
        self._window.add_metrics(metrics)
        return loss * self.args.data_processes

    def _weighed(self, sums: dict, counts: dict) -> torch.Tensor:
        return sum(self.objective.weights[term] * value / counts[term] for term, value in sums.items())

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._watch.loss(loss)
        if self.adversary is not None:
            self._step_batches.append(inputs)
            if self.accelerator.sync_gradients:  # the gradient is that of the whole step now
                self._train_perturbed(model, num_items_in_batch)
        return loss

    def _train_perturbed(self, model, counts: dict) -> None:
        """Add the gradients of the step's rows under the adversary; what is logged stays that of the rows alone."""
        batches, self._step_batches = self._step_batches, []
        with self.adversary(self.model):
            for inputs in batches:
                with self.compute_loss_context_manager():
                    loss = self._weighed(self.objective(model, inputs)[0], counts)
                self.accelerator.backward(loss * self.args.data_processes)

    # Numbers that are none

    def _get_grad_norm(self, model, grad_norm=None):
        """Called once a step, between clipping and the update."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.args.on_nan == "skip" and self.accelerator.scaler is None:
            drop_gradients_unless_finite(self.optimizer, norm)
        if self._watch.step(self.state.global_step + 1, norm):
            self._look()
            self._stop_unless_finite()
        return norm

    def _look(self) -> None:
        """Wait for the device and count the steps since the last look that were not finite."""
        count = self._watch.look(self.args.device)
        if count:  # of all processes, which must sum up the same names
            name = "skipped_steps" if self._watch.skips else "nonfinite_steps"
            self._window.count(name, count if self.args.data_process == 0 else 0)

    def _stop_unless_finite(self, weights: bool = False, state=()) -> None:
        """NotFinite after too many steps in a row, and where asked for unless weights and state are finite."""
        row = self._watch.too_many()
        if row is not None:
            raise NotFinite(
                self._not_finite(f"the loss or the gradient was not finite in {row[0]} steps in a row", row[1])
            )
        if weights:
            parts = (getattr(weight, "ds_tensor", weight) for weight in self.model.parameters())  # ZeRO stage 3's
            finite = all_finite([*parts, *state]).to(self.args.device, torch.float32)
            if self._sum(finite) < self.args.world_size:
                first = self._watch.first or self.state.global_step
                raise NotFinite(self._not_finite("the weights are not finite", first))

    def _not_finite(self, what: str, step: int) -> str:
        """The line that says what happened from which step on, what its rows were, and what to do."""
        rows = rows_named(self._rows_of(step))
        there = all_checkpoints(Path(self.args.output_dir))
        advice = "lower --learning_rate or --max_grad_norm"
        advice += "" if self._watch.skips else ", or leave such steps out with --on_nan skip"
        return (
            f"{what} from step {step} on, whose rows are {rows}; "
            f"{there[-1] if there else 'no checkpoint'} is the last finite state; {advice}"
        )

    def _rows_of(self, step: int) -> list[int]:
        """Numbers of the training rows of a step, over all processes."""
        batches = copy.copy(self.train_batches)
        batches.start = self._places(step - 1)
        found = set()
        for batch in islice(batches, self.args.gradient_accumulation_steps):
            rows = self.train_dataset.__getitems__(batch)
            found |= {row.get("index", number[1]) for row, number in zip(rows, batch, strict=True)}
        return sorted(set().union(*gather_object([found])))

    # Logs

    def log(self, logs, start_time=None):
        if "loss" in logs:
            self._look()
            totals = self._window.totals(self.accelerator, self.args.model_parallel_size)
            rates = {name: logs[name] for name in ("learning_rate", "grad_norm") if name in logs}
            steps = self.state.global_step - self._window_step
            means = summary(totals, self.objective.histograms)
            found = {name: int(totals[name]) for name in ("skipped_steps", "nonfinite_steps") if totals.get(name)}
            logs = {"loss": totals["loss"] / steps, **means, **rates, **self._speed(totals), **found}
            self._window.clear()
            self._window_step = self.state.global_step
        if self.train_batches is not None:
            self.state.epoch = self.train_batches.epoch_at(self._places())
        super().log(logs)
        self._stop_unless_finite()

    def _speed(self, totals: dict[str, float]) -> dict[str, float]:
        """Speed since the last log, evaluation and checkpoints left out."""
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        self._clock += seconds
        self._tokens_seen += int(totals["tokens"])
        return {
            "tokens_per_second": totals["tokens"] / seconds,
            "mfu": totals["flops"] / seconds / self._peak,
            "tokens_seen": self._tokens_seen,
        }

    # Training

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train to the end of the sampler; resume_from_checkpoint is a folder of the first process, or None."""
        self.peers = Peers(self.args)
        checkpoint = None
        if resume_from_checkpoint is not None:
            checkpoint = self.peers.fetch(Path(resume_from_checkpoint))
            self._restore(read_json(checkpoint / PROGRESS))
            self._restore_memory(checkpoint)
            self.args.eval_on_start = False  # the log has that record
        self._row_flops = training_flops(self.model, self._run_example, self.objective.example_lengths)
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.args.mixed_precision, torch.float32)
        self._peak = measured_peak(self.args.device, dtype) * self.args.world_size
        with self.stop.listening(), self._last_state_named():
            outcome = super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)
        self.peers.clear()
        self._look()
        self._stop_unless_finite(weights=True)
        if self.stop.reason == "SIGINT":
            raise Stopped(self.stop.outcome)
        return outcome

    @contextmanager
    def _last_state_named(self):
        """What disk, memory or another process did to the training, with the state from which it goes on."""
        try:
            yield
        except (NotFinite, ArgumentError):
            raise
        except Exception as error:
            output_dir = Path(self.args.output_dir)
            what = describe_fault(error)
            if what is None:
                raise
            if what == UNWRITTEN:
                what = why_not_written(output_dir) or what
            if "too little memory" in what:
                what += "; lower --per_device_train_batch_size and raise --gradient_accumulation_steps"
            if self.args.should_save and output_dir.is_dir():
                with suppress(OSError):
                    remove_partial(output_dir)  # it may be what has filled the disk
            kept = all_checkpoints(output_dir)
            if kept:
                last = f"{kept[-1]} is the last good state, and the same command goes on from there"
            else:
                last = f"there is no checkpoint in {output_dir}, and the same command starts over"
            raise UserError(f"{what}; {last}") from error

    def _restore(self, progress: dict):
        """Take up the place in the data and what was summed since the last log."""
        rows = progress["places"] / max(progress["step"], 1)
        if progress["step"] and rows != self.train_batches.step_size:
            raise ArgumentError(
                f"batch size x accumulation x processes must stay the {rows:g} rows a step with which the checkpoint "
                f"was made, got {self.train_batches.step_size}; change the batch size"
            )
        self.train_batches.start = progress["places"]
        self._start = (progress["step"], progress["places"])
        self._window_step, self._tokens_seen = progress["window_step"], progress["tokens_seen"]
        self._window.restore(progress["sums"], share=float(self.args.data_process == 0))
        self.stop.seconds_before = progress["seconds"]

    def _restore_memory(self, folder: Path) -> None:
        """What an objective carries from step to step, if it does: of all processes, whose rows may be dealt anew."""
        parts = [load_file(file) for file in sorted(folder.glob("memory_*.safetensors"), key=process_of)]
        self.objective.restore(*parts, device=self.args.device)

    def _load_rng_state(self, checkpoint):
        """As transformers does from as many processes; otherwise a process takes up the state of its number, if any.

        The random numbers of one that had none are a function of seed, step and process.
        """
        if checkpoint is not None:
            saved, number = random_states(Path(checkpoint)), self.args.process_index
            wanted = [random_state_name(number, self.args.world_size) for number in range(self.args.world_size)]
            if [file.name for file in saved] == wanted:
                super()._load_rng_state(checkpoint)
            else:
                drawn = np.random.SeedSequence([self.args.seed, self.state.global_step, number]).generate_state(1)
                set_seed(int(drawn[0]))
                logger.info("going on with %d processes instead of %d", self.args.world_size, len(saved))
                for file in saved:
                    if process_of(file) == number:
                        with tempfile.TemporaryDirectory() as folder:
                            copy_random_state(file, Path(folder) / wanted[number], alone=self.args.world_size == 1)
                            super()._load_rng_state(folder)
        self.peers.clear()  # the last that is read of it

    def _run_example(self, model, length: int) -> None:
        device = next(model.parameters()).device  # DeepSpeed and FSDP move the model only when training starts
        with self.accelerator.autocast():
            self.objective(model, send_to_device(self.objective.example(length), device))

    def _init_training_state(self, max_steps, *arguments):
        found = super()._init_training_state(max_steps, *arguments)
        self.state.compute_steps(self.args, max_steps)  # this call's intervals, not those of the checkpoint
        best = Path(self.args.output_dir, f"{COMPLETE}{self.state.best_global_step}")
        if self.keep_best is None and best.is_dir():
            self.state.best_model_checkpoint = str(best)  # wherever the folder has been moved to
        self._clock = time.perf_counter()
        return found

    def _prepare_for_training(self, *arguments):
        parts = self.args.model_parallel_size
        if parts > 1:
            take_share(self.model, self.args.model_part, parts)
        prepared = super()._prepare_for_training(*arguments)
        if parts > 1:  # DeepSpeed's check that a group has the same rows, which knows no tuple of tensors
            self.deepspeed.first_dataloader_check.remove()
        return prepared

    def get_decay_parameter_names(self, model) -> list[str]:
        """As transformers chooses them, and what the objective says is decayed though it is called a bias."""
        names, endings = super().get_decay_parameter_names(model), self.objective.decayed
        return names + [name for name, _ in model.named_parameters() if name.endswith(endings) and name not in names]

    def create_optimizer(self, model=None):
        args = self.args
        if self.optimizer is None and args.optimizer == "muon":
            model = self.model if model is None else model
            self.optimizer = make_muon(model, self.get_decay_parameter_names(model), args)
        elif not args.adam_bias_correction:
            options = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
            self.optimizer_cls_and_kwargs = (AdamWithoutBiasCorrection, options)
        optimizer = super().create_optimizer(model)
        if self.rate_factors:
            self._spread_rates(self.model if model is None else model, optimizer)
        return optimizer

    def _spread_rates(self, model, optimizer) -> None:
        """Give each parameter its own learning rate; the first group's, which is logged, is the highest."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        optimizer.param_groups[:] = split_by_rate(optimizer.param_groups, names, self.rate_factors)

    def create_scheduler(self, num_training_steps, optimizer=None):
        args = self.args
        if self.lr_scheduler is None and args.schedule is not None:
            warmup = args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = make_schedule(
                *(optimizer or self.optimizer, args.schedule, num_training_steps, warmup),
                *(args.steps_before, args.schedule_floor),
            )
            self._created_lr_scheduler = True
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if args.schedule_by_time:

            def by_time(rule):
                """As far along as the steps or the minutes are, whichever is further."""
                return lambda step: rule(max(step, self.stop.share * num_training_steps))

            scheduler.lr_lambdas = [by_time(rule) for rule in scheduler.lr_lambdas]
            if isinstance(scheduler, RateAndMomentum):
                scheduler.momentum = by_time(scheduler.momentum)
        return scheduler

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """What the evaluator says, else loss, metrics and perplexity from sums over eval_batches and processes."""
        self._look()  # waits for the steps before, whose time is not the evaluation's
        started = time.perf_counter()
        found = self._evaluate_sums() if self.evaluator is None else self.evaluator(self)
        logs = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        if self.args.metric_for_best_model is not None:
            logs["primary"] = found[self.args.metric_for_best_model]
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        self._clock += time.perf_counter() - started
        return logs

    def _evaluate_sums(self) -> dict[str, float]:
        objective = self.objective
        window, zero = Window(), torch.zeros((), device=self.args.device)
        # All processes add up the same names, also those without a batch.
        window.add_metrics(dict.fromkeys((*objective.weights, *objective.metrics), (zero, zero)))
        window.add_metrics({name: zero.expand(bins) for name, (bins, _) in objective.histograms.items()})
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for batch in self._loader(self.eval_dataset, self.eval_batches, self.eval_collator, workers=0):
                batch = send_to_device(batch, self.args.device, non_blocking=True)
                counts = objective.counts(batch)
                sums, metrics = objective(self.model, batch)
                window.add_metrics({term: (sums[term], counts[term]) for term in sums} | metrics)
        means = summary(window.totals(self.accelerator, self.args.model_parallel_size), objective.histograms)
        terms = {term: means.pop(term) for term in objective.weights}
        logs = {"loss": sum(weight * terms[term] for term, weight in objective.weights.items()), **means}
        if len(terms) > 1:
            logs |= {f"{term}_loss": value for term, value in terms.items()}
        if objective.perplexity_of is not None:
            logs["perplexity"] = math.exp(min(terms[objective.perplexity_of], 700))
        return logs

    def _determine_best_metric(self, metrics, trial) -> bool:
        """Keeps what is better than all before; the earlier of two equal ones stays the best."""
        best = super()._determine_best_metric(metrics, trial)
        if best and self.args.load_best_model_at_end:
            self.control.should_save = True  # else there would be no checkpoint to load it from
        if best and self.keep_best is not None:
            started = time.perf_counter()
            self._stop_unless_finite(weights=True)
            self.keep_best()
            self._clock += time.perf_counter() - started
        elif self.patience is not None:
            since = {logs["step"] for logs in self.state.log_history if "primary" in logs}
            worse = [step for step in since if step > (self.state.best_global_step or 0)]
            self.control.should_training_stop |= len(worse) >= self.patience
        return best

    # Checkpoints

    def _save_checkpoint(self, model, trial):
        """In place of transformers': whole or not at all, without its count of flops, which nothing reads.

        Nothing is pushed to a hub, which the scripts' flags refuse.
        """
        self._look()
        started = time.perf_counter()
        output_dir = Path(self.args.output_dir)
        if self.args.should_save and not output_dir.is_dir():  # to make a new one would hide that all else is gone
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(output_dir))
        final = output_dir / f"{COMPLETE}{self.state.global_step}"
        partial = output_dir / f"{PARTIAL}{final.name}"
        if self.state.best_global_step == self.state.global_step and self.keep_best is None:
            self.state.best_model_checkpoint = str(final)
        totals = self._window.totals(self.accelerator, self.args.model_parallel_size)
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        memory = self.objective.state() if self.args.model_part == 0 else {}
        self._stop_unless_finite(weights=True, state=[*state_tensors(self.optimizer), *memory.values()])
        self.save_model(str(partial), _internal_call=True)
        self._save_optimizer_and_scheduler(str(partial))
        self._save_scaler(str(partial))
        with self.peers.delivery(partial) as folder:
            self._save_rng_state(str(folder))
            if memory:
                save_file(memory, folder / f"memory_{self.args.data_process}.safetensors")
        if self.args.should_save:
            self.state.save_to_json(str(partial / STATE))
            if self.export is not None and self.state.global_step in self.kept_steps:
                self.export(partial)
            (partial / PROGRESS).write_text(json.dumps(self._progress(totals)), encoding="utf-8")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(partial, final)
            best, step = self.state.best_model_checkpoint, self.state.global_step
            rotate(output_dir, self.kept, best, self.kept_steps, newest=step)
        self.accelerator.wait_for_everyone()
        self._clock += time.perf_counter() - started

    def save_model(self, output_dir=None, _internal_call=False):
        """As transformers', with the rights of other new files."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            give_usual_rights(Path(output_dir or self.args.output_dir).glob("*.safetensors"))

    def _progress(self, totals: dict[str, float]) -> dict:
        """What transformers does not save: see _restore. JSON keeps every bit of a float64."""
        return {
            "step": self.state.global_step,
            "processes": self.args.world_size,
            "places": self._places(),
            "window_step": self._window_step,
            "tokens_seen": self._tokens_seen,
            "seconds": self.stop.seconds,
            "sums": totals,
        }

    def _places(self, after: int | None = None) -> int:
        """Places of the data stream behind a step, the current one by default."""
        step, places = self._start
        after = self.state.global_step if after is None else after
        return places + (after - step) * self.train_batches.step_size

    def _issue_warnings_after_load(self, load_result):
        """A checkpoint that does not fit the model is an error: transformers would train on with random weights."""
        missing = set(load_result.missing_keys) - set(self.model.all_tied_weights_keys)
        if missing or load_result.unexpected_keys:
            raise ArgumentError(
                f"--resume_from_checkpoint must name a checkpoint of this model, got one with missing tensors "
                f"{sorted(missing)[:3]} and unexpected ones {load_result.unexpected_keys[:3]}; start over with none"
            )
