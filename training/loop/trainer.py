"""The one Trainer of this repository: exact loss normalisation, token-weighted metrics, exact resumption.

It differs from transformers' Trainer in this:
- an objective (training/objectives/) gives sums and counts, and each term is divided by its count over the whole
  global batch, so that accumulation and processes change nothing;
- batches come from a sampler that is a pure function of the place in its stream, which the checkpoint records;
- logged numbers are sums over all micro-batches since the last log, and the checkpoint carries what has been summed;
- a checkpoint appears whole or not at all, and is loaded strictly;
- evaluation adds up sums and counts and never gathers logits.
"""

import operator
from itertools import islice
from pathlib import Path

import torch
import transformers
from accelerate.utils import send_to_device
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from common.errors import Stopped
from training.flag_checks import check_optimizer, check_scheduler, flags_blamed, loggers_blamed
from training.loop.compiling import compile_for
from training.loop.extension import Extension
from training.loop.finiteness import Guard
from training.loop.logs import ConsoleAndFile, TensorBoard
from training.loop.model_parallel import ask_for, take_share
from training.loop.optimizers import make_muon, own_adam, raise_first_scale, split_by_rate
from training.loop.progress import Progress
from training.loop.saving import Start, check_loaded, own_random_state, take_up, write_checkpoint, write_model
from training.loop.schedules import FollowGlobalStep, check_schedule, follow_time, make_schedule
from training.loop.stopping import StopEarly, last_state_named
from training.model_setup import check_trainable, shard_by_layers
from training.objectives.base import Objective
from training.peers import Peers
from training.process import set_up_worker
from training.sharing.folders import FolderTrainer
from training.upstream import check_upstream


class Trainer(FolderTrainer):
    """See the module.

    Args (keyword only, besides transformers' own):
        objective: what a step minimises and counts.
        train_batches: batch sampler with step_size, start, epoch_at(place) and a length of steps * accumulation.
        evaluator: function of this trainer to numbers by their names; None without held-out rows.
        extension: what the script adds to the loop.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by counts of the whole step

    def __init__(
        self, *, objective: Objective, train_batches=None, evaluator=None, extension: Extension | None = None, **kwargs
    ):
        check_upstream()
        args = kwargs["args"]
        if train_batches is not None and isinstance(kwargs["model"], transformers.PreTrainedModel):
            check_trainable(kwargs["model"].config, kwargs["model"].name_or_path)
        self.objective, self.train_batches, self.evaluator = objective, train_batches, evaluator
        self.extension = extension or Extension()
        self.stop = StopEarly(args.max_train_minutes, across_calls=args.schedule_by_time)
        if train_batches is not None:
            args.max_steps = train_batches.steps
            args.ignore_data_skip = True  # the sampler itself starts at the right place
            if args.schedule is not None:
                warmup = args.get_warmup_steps(args.max_steps)
                check_schedule(args.schedule, args.max_steps, warmup, args.steps_before)
        self._save_total_limit = args.save_total_limit
        if args.metric_for_best_model is not None:
            args.save_total_limit = None  # else transformers deletes the newest checkpoint at the end
        tensorboard = "tensorboard" in args.report_to
        args.report_to = [name for name in args.report_to if name != "tensorboard"]
        if args.model_parallel_size > 1:
            ask_for(kwargs["model"], args)
        with flags_blamed(args):  # an eval_dataset that is not None is all that transformers asks for
            super().__init__(eval_dataset=evaluator, optimizer_cls_and_kwargs=own_adam(args), **kwargs)
        raise_first_scale(self.accelerator.scaler, objective, 0 if train_batches is None else train_batches.step_size)
        if args.data_process:  # other dropout than the first's, on other rows
            set_seed(args.seed + args.data_process)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        for callback in self._own_callbacks(tensorboard):
            self.add_callback(callback)
        self.progress = Progress(train_batches, args, self.accelerator)
        self.guard = Guard(self)
        if train_batches is not None and not args.deepspeed and not args.fsdp:
            self._rehearse()

    def _own_callbacks(self, tensorboard: bool) -> list[TrainerCallback]:
        folder = Path(self.args.output_dir)
        callbacks = [TensorBoard(self.args.logging_dir or str(folder / "runs"))] if tensorboard else []
        callbacks += [ConsoleAndFile(folder / self.extension.log_file), self.stop, FollowGlobalStep()]
        return [*callbacks, self.extension, Start(self)]

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

    # A step

    def get_train_dataloader(self) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return self.loader(self.train_dataset, self.train_batches, self.data_collator, workers)

    def loader(self, dataset, batches, collator, workers: int = 0) -> DataLoader:
        """Batches of the dataset's rows, collated, for training and evaluation."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collator,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
            worker_init_fn=set_up_worker,
            generator=torch.Generator(),  # its own, so that making an iterator leaves the model's random numbers alone
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of a step, and by term of the loss its targets over all of them and all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        for batch in batches:
            self.progress.count(batch)
        counts = [self.objective.counts(batch) for batch in batches]
        totals = torch.stack([sum(count[term] for count in counts) for term in self.objective.weights])
        totals = self.accelerator.reduce(totals.to(device, non_blocking=True), "sum") / self.args.model_parallel_size
        batches = [send_to_device(batch, device, non_blocking=True) for batch in batches]
        return batches, dict(zip(self.objective.weights, totals.clamp(min=1), strict=True))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's share of the step's loss, times the processes over which gradients are averaged."""
        sums, metrics = self.objective(model, inputs)
        loss = self._weighed(sums, num_items_in_batch)
        self.progress.sums.add("loss", loss)
        if len(sums) > 1:
            metrics |= {f"{term}_loss": (sums[term], self.objective.counts(inputs)[term]) for term in sums}
        self.progress.sums.add_metrics(metrics)
        return loss * self.args.data_processes

    def _weighed(self, sums: dict, counts: dict) -> torch.Tensor:
        return sum(self.objective.weights[term] * value / counts[term] for term, value in sums.items())

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.guard.loss(loss)
        self.extension.after_backward(self, model, inputs, num_items_in_batch)
        return loss

    def backward(self, model, inputs: dict, counts: dict) -> None:
        """Add the gradients of one more pass over a micro-batch to those of its step; nothing of it is logged."""
        with self.compute_loss_context_manager():
            loss = self._weighed(self.objective(model, inputs)[0], counts)
        self.accelerator.backward(loss * self.args.data_processes)

    def _get_grad_norm(self, model, grad_norm=None):
        """Called once a step, between clipping and the update."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # FSDP's, spread as the weights are
        self.guard.before_update(norm)
        return norm

    # The run

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train to the end of the sampler; resume_from_checkpoint is a folder of the first process, or None."""
        self.peers = Peers(self.args)
        checkpoint = None
        if resume_from_checkpoint is not None:
            checkpoint = self.peers.fetch(Path(resume_from_checkpoint))
            take_up(self, checkpoint)
        self.progress.measure(self.model, self.objective)
        compile_for(self)
        if self.args.fsdp:
            shard_by_layers(self.model)
        if self.args.model_parallel_size > 1:
            take_share(self.model, self.args.model_part, self.args.model_parallel_size)
        with self.stop.listening(), last_state_named(self.args), loggers_blamed(self.args):
            outcome = super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)
        self.peers.clear()
        self.guard.look()
        self.guard.check(weights=True)
        if self.stop.reason == "SIGINT":
            raise Stopped(self.stop.outcome)
        return outcome

    def create_optimizer(self, model=None):
        model = self.model if model is None else model
        if self.optimizer is None and self.args.optimizer == "muon":
            self.optimizer = make_muon(model, self.get_decay_parameter_names(model), self.args)
        optimizer = super().create_optimizer(model)
        if self.extension.rate_factors:
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            optimizer.param_groups[:] = split_by_rate(optimizer.param_groups, names, self.extension.rate_factors)
        return optimizer

    def get_decay_parameter_names(self, model) -> list[str]:
        """As transformers chooses them, and what the objective says is decayed though it is called a bias."""
        names = super().get_decay_parameter_names(model)
        more = [name for name, _ in model.named_parameters() if name.endswith(self.objective.decayed)]
        return names + [name for name in more if name not in names]

    def create_scheduler(self, num_training_steps, optimizer=None):
        args = self.args
        if self.lr_scheduler is None and args.schedule is not None:
            warmup, floor = args.get_warmup_steps(num_training_steps), args.schedule_floor
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = make_schedule(
                optimizer, args.schedule, num_training_steps, warmup, args.steps_before, floor
            )
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if args.schedule_by_time:
            follow_time(scheduler, lambda: self.stop.share * num_training_steps)
        return scheduler

    def log(self, logs, start_time=None):
        if "loss" in logs:
            self.guard.look()
            logs = self.progress.training_record(logs, self.state.global_step, self.objective.histograms)
        if self.train_batches is not None:
            self.state.epoch = self.progress.epoch(self.state.global_step)
        super().log(logs)
        self.guard.check()

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """What the evaluator says, logged; in training also whether it is the best so far."""
        self.guard.look()  # waits for the steps before, whose time is not the evaluation's
        with self.progress.paused():
            numbers = self.evaluator(self)
            logs = {f"{metric_key_prefix}_{name}": value for name, value in numbers.items()}
            if self.args.metric_for_best_model is not None:
                logs["primary"] = numbers[self.args.metric_for_best_model]
            self.log(logs)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
            if "primary" in logs and self.is_in_train and self.state.global_step:
                self._compare(logs["primary"])
        return logs

    def _compare(self, primary: float) -> None:
        """With the best so far, which transformers notes afterwards; the earlier of two equal ones stays the best."""
        is_better, worst = (operator.gt, -torch.inf) if self.args.greater_is_better else (operator.lt, torch.inf)
        is_best = is_better(primary, worst if self.state.best_metric is None else self.state.best_metric)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True  # else there would be no checkpoint to load it from
        self.extension.after_evaluation(self, is_best)

    # Checkpoints

    def _save_checkpoint(self, model, trial):
        """In place of transformers': whole or not at all, without a count of flops, and nothing of it for a hub."""
        self.guard.look()
        with self.progress.paused():
            write_checkpoint(self, self._save_total_limit)

    def save_model(self, output_dir=None, _internal_call=False):
        """As transformers', with what write_model adds; pushed is the folder when its card is there, too."""
        write_model(self, super().save_model, output_dir, in_checkpoint=_internal_call)

    def _load_rng_state(self, checkpoint):
        """As transformers does from as many processes; see own_random_state for others."""
        if checkpoint is not None:
            with own_random_state(Path(checkpoint), self.args, self.state.global_step) as folder:
                super()._load_rng_state(folder)
        self.peers.clear()  # the last that is read of it

    def _issue_warnings_after_load(self, load_result):
        check_loaded(self.model, load_result)
