"""The one Trainer of this repository: exact loss normalisation, token-weighted metrics, exact resumption.

It differs from transformers' Trainer in this:
- an objective (training/objectives.py) gives sums and counts, and each term is divided by its count over the whole
  global batch, so that accumulation and processes change nothing;
- batches come from a sampler that is a pure function of the place in its stream, which the checkpoint records;
- logged numbers are sums over all micro-batches since the last log, and the checkpoint carries what has been summed;
- a checkpoint appears whole or not at all, and is loaded strictly;
- evaluation adds up sums and counts and never gathers logits.
"""

import json
import math
import shutil
import time
from pathlib import Path

import torch
import transformers
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from training.checkpoints import COMPLETE, PARTIAL, PROGRESS, publish, rotate
from training.logs import ConsoleAndFile, TensorBoard, measured_peak, training_flops
from training.optimizers import make_muon
from training.pretrained import ArgumentError
from training.run import LOG_FILE, keep_freed_memory
from training.stopping import StopEarly, obey_parent_only
from training.window import Window, means


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
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by counts of the whole step

    def __init__(self, *, objective, train_batches=None, eval_batches=None, eval_collator=None, **kwargs):
        args = kwargs["args"]
        if train_batches is not None:
            args.max_steps = train_batches.steps
            args.ignore_data_skip = True  # the sampler itself starts at the right place
        tensorboard = "tensorboard" in args.report_to
        args.report_to = [name for name in args.report_to if name != "tensorboard"]
        super().__init__(**kwargs)
        self.objective, self.train_batches = objective, train_batches
        self.eval_batches, self.eval_collator = eval_batches, eval_collator
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if tensorboard:
            self.add_callback(TensorBoard(args.logging_dir or str(Path(args.output_dir) / "runs")))
        self.add_callback(ConsoleAndFile(Path(args.output_dir) / LOG_FILE))
        self.stop = StopEarly(args.max_train_minutes, across_calls=args.schedule_by_time)
        self.add_callback(self.stop)
        self._row_flops = (0.0, 0.0)
        self._start = (0, 0)  # step and place of the data stream that this call starts from
        self._window = Window()
        self._window_step = self._tokens_seen = 0  # as of the last log
        self._clock = time.perf_counter()

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
            worker_init_fn=_set_up_worker,
            generator=torch.Generator(),  # its own, so that making an iterator leaves the model's random numbers alone
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            lengths = batch["attention_mask"].sum(1, dtype=torch.float64)
            linear, square = self._row_flops
            self._window.count("tokens", int(lengths.sum()))
            self._window.count("flops", float(linear * lengths.sum() + square * lengths.square().sum()))
        return [send_to_device(batch, device, non_blocking=True) for batch in batches], counts

    # Loss

    def _get_num_items_in_batch(self, batch_samples, device) -> dict[str, torch.Tensor]:
        """Targets per term of the loss in the whole step, over all micro-batches and processes."""
        found = [self.objective.counts(batch) for batch in batch_samples]
        counts = torch.stack([sum(count[term] for count in found) for term in self.objective.weights])
        counts = self.accelerator.reduce(counts.to(device), "sum").clamp(min=1)
        return dict(zip(self.objective.weights, counts, strict=True))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's share of the step's loss, times the processes over which gradients are averaged."""
        sums, metrics = self.objective(model, inputs)
        weights = self.objective.weights
        loss = sum(weights[term] * value / num_items_in_batch[term] for term, value in sums.items())
        self._window.add("loss", loss)
        if len(sums) > 1:
            metrics |= {f"{term}_loss": (sums[term], self.objective.counts(inputs)[term]) for term in sums}
        for name, pair in metrics.items():
            self._window.add_pair(name, pair)
        return loss * self.args.world_size

    # Logs

    def log(self, logs, start_time=None):
        if "loss" in logs:
            totals = self._window.totals(self.accelerator)
            rates = {name: logs[name] for name in ("learning_rate", "grad_norm") if name in logs}
            steps = self.state.global_step - self._window_step
            logs = {"loss": totals["loss"] / steps, **means(totals), **rates, **self._speed(totals)}
            self._window.clear()
            self._window_step = self.state.global_step
        if self.train_batches is not None:
            self.state.epoch = self.train_batches.epoch_at(self._places())
        super().log(logs)

    def _speed(self, totals: dict[str, float]) -> dict[str, float]:
        """Speed since the last log, evaluation and checkpoints left out."""
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        self._clock += seconds
        self._tokens_seen += int(totals["tokens"])
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.args.mixed_precision, torch.float32)
        peak = measured_peak(self.args.device, dtype) * self.args.world_size
        return {
            "tokens_per_second": totals["tokens"] / seconds,
            "mfu": totals["flops"] / seconds / peak,
            "tokens_seen": self._tokens_seen,
        }

    # Training

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train to the end of the sampler; resume_from_checkpoint is a complete checkpoint folder or None."""
        if resume_from_checkpoint is not None:
            progress = json.loads((Path(resume_from_checkpoint) / PROGRESS).read_text(encoding="utf-8"))
            self._restore(progress)
            self.args.eval_on_start = False  # the log has that record
        self._row_flops = training_flops(self.model, self._run_example, self.objective.example_lengths)
        self._clock = time.perf_counter()
        return super().train(resume_from_checkpoint=resume_from_checkpoint and str(resume_from_checkpoint), **kwargs)

    def _restore(self, progress: dict):
        """Take up the place in the data and what was summed since the last log."""
        self.train_batches.start = progress["places"]
        self._start = (progress["step"], progress["places"])
        self._window_step, self._tokens_seen = progress["window_step"], progress["tokens_seen"]
        self._window.restore(progress["sums"], share=float(self.args.process_index == 0))
        self.stop.seconds_before = progress["seconds"]

    def _run_example(self, model, length: int) -> None:
        with self.accelerator.autocast():
            self.objective(model, send_to_device(self.objective.example(length), self.args.device))

    def _init_training_state(self, max_steps, *arguments):
        found = super()._init_training_state(max_steps, *arguments)
        self.state.compute_steps(self.args, max_steps)  # this call's intervals, not those of the checkpoint
        return found

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.args.optimizer == "muon":
            model = self.model if model is None else model
            self.optimizer = make_muon(model, self.get_decay_parameter_names(model), self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps, optimizer=None):
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.args.schedule_by_time:
            # As far along as the steps or the minutes are, whichever is further.
            scheduler.lr_lambdas = [
                lambda step, rule=rule: rule(max(step, self.stop.share * num_training_steps))
                for rule in scheduler.lr_lambdas
            ]
        return scheduler

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Loss, metrics and perplexity over eval_batches, each a quotient of sums over all tokens and processes."""
        started = time.perf_counter()
        names = [*self.objective.weights, *self.objective.metrics]
        totals = torch.zeros(2 * len(names), dtype=torch.float64, device=self.args.device)
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for batch in self._loader(self.eval_dataset, self.eval_batches, self.eval_collator, workers=0):
                batch = send_to_device(batch, self.args.device, non_blocking=True)
                counts = self.objective.counts(batch)
                sums, metrics = self.objective(self.model, batch)
                pairs = {term: (sums[term], counts[term]) for term in sums} | metrics
                totals += torch.stack([value.double() for name in names for value in pairs[name]])
        totals = self.accelerator.reduce(totals, "sum").view(-1, 2).tolist()
        means = {name: top / max(bottom, 1) for name, (top, bottom) in zip(names, totals, strict=True)}
        logs = {"loss": sum(weight * means[term] for term, weight in self.objective.weights.items())}
        logs |= {name: means[name] for name in self.objective.metrics}
        if self.objective.perplexity_of is not None:
            logs["perplexity"] = math.exp(min(means[self.objective.perplexity_of], 700))
        logs = {f"{metric_key_prefix}_{name}": value for name, value in logs.items()}
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        self._clock += time.perf_counter() - started
        return logs

    # Checkpoints

    def _save_checkpoint(self, model, trial):
        started = time.perf_counter()
        output_dir = Path(self.args.output_dir)
        final = output_dir / f"{COMPLETE}{self.state.global_step}"
        partial = output_dir / f"{PARTIAL}{final.name}"
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(final)
        totals = self._window.totals(self.accelerator)
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(partial), _internal_call=True)
        self._save_optimizer_and_scheduler(str(partial))
        self._save_scaler(str(partial))
        self._save_rng_state(str(partial))
        if self.args.should_save:
            self.state.save_to_json(str(partial / "trainer_state.json"))
            (partial / PROGRESS).write_text(json.dumps(self._progress(totals)), encoding="utf-8")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(partial, final)
            rotate(output_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        self._clock += time.perf_counter() - started

    def _progress(self, totals: dict[str, float]) -> dict:
        """What transformers does not save: see _restore. JSON keeps every bit of a float64."""
        return {
            "step": self.state.global_step,
            "places": self._places(),
            "window_step": self._window_step,
            "tokens_seen": self._tokens_seen,
            "seconds": self.stop.seconds,
            "sums": totals,
        }

    def _places(self) -> int:
        """Places of the data stream behind the current step."""
        step, places = self._start
        return places + (self.state.global_step - step) * self.train_batches.step_size

    def _issue_warnings_after_load(self, load_result):
        """A checkpoint that does not fit the model is an error: transformers would train on with random weights."""
        missing = set(load_result.missing_keys) - set(self.model.all_tied_weights_keys)
        if missing or load_result.unexpected_keys:
            raise ArgumentError(
                f"--resume_from_checkpoint must name a checkpoint of this model, got one with missing tensors "
                f"{sorted(missing)[:3]} and unexpected ones {load_result.unexpected_keys[:3]}; start over with none"
            )
