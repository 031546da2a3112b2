"""Command-line arguments that training scripts share, and how they are read.

`RunArguments` is transformers' TrainingArguments with the flags that transformers 5 dropped doing what they did in
4.x, and with this repository's own. A JSON or YAML file as the single argument stands for the same flags.
"""

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils.versions import require_version

from common.errors import ArgumentError, UserError
from common.flags import NONE, FlagParser, Foreign
from common.secrecy import shown_command
from training.flag_checks import REFUSED, check_raw, check_settled
from training.loop.schedules import SCHEDULES
from training.process import spreads_weights
from training.sharing.adapters import HELP as LORA

logger = logging.getLogger(__name__)

TRAINERS = "Flags of transformers' Trainer"


def has_bf16() -> bool:
    """Whether the card multiplies bf16 matrices itself."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass
class RunArguments(TrainingArguments):
    """How to train: optimiser, schedule, precision, logging, checkpoints."""

    model_parallel_size = 1  # processes that hold one model: a field of training/loop/model_parallel.py's arguments

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the run: checkpoints, log.jsonl, model."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Allow a used output_dir; what stands in the way is moved aside."}
    )
    resume_from_checkpoint: str | None = field(
        default="auto",
        metadata={"help": "auto (newest complete checkpoint), none (start over) or a checkpoint folder."},
    )
    logging_dir: str | None = field(
        default=None, metadata={"help": "Folder for TensorBoard; default output_dir/runs."}
    )
    report_to: list[str] = field(
        default_factory=lambda: ["tensorboard"],
        metadata={"help": "Integrations besides console and log.jsonl; or none."},
    )
    push_to_hub: bool = field(
        default=False, metadata={"help": "Upload the finished model, with its card, to the hub."}
    )
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Its repository; default: the name of output_dir."}
    )
    max_train_minutes: float | None = field(
        default=None, metadata={"help": "Stop, save and end after these wall-clock minutes of this call."}
    )
    schedule_by_time: bool = field(
        default=False, metadata={"help": "Let the schedule end with max_train_minutes of the whole run, if earlier."}
    )
    optimizer: str = field(
        default="adamw", metadata={"help": "adamw (see --optim) or muon.", "choices": ["adamw", "muon"]}
    )
    adam_bias_correction: bool = field(
        default=True, metadata={"help": "Correct Adam's moments; without it as google-research/electra."}
    )
    muon_learning_rate: float = field(
        default=5e-3, metadata={"help": "Peak learning rate of hidden matrices under --optimizer muon."}
    )
    schedule: str | None = field(
        default=None,
        metadata={"help": "Published schedule instead of --lr_scheduler_type.", "choices": SCHEDULES},
    )
    steps_before: int = field(
        default=0, metadata={"help": "Updates the loaded weights have had; the linear --schedule goes on from there."}
    )
    schedule_floor: float = field(
        default=0.0, metadata={"help": "Share of the peak learning rate at which --schedule cosine_to_floor ends."}
    )
    warmup_ratio: float | None = field(default=None, metadata={"help": "Share of max_steps, if warmup_steps is 0."})
    adafactor: bool = field(default=False, metadata={"help": "Old name of --optim adafactor."})
    group_by_length: bool = field(default=False, metadata={"help": "Put rows of like length into one batch."})
    on_nan: str = field(
        default="stop",
        metadata={
            "help": "Steps without a finite gradient: let them be until nan_steps, or skip (change no weight then; "
            "waits for a GPU at each step, but with a fused AdamW, the default, and with muon).",
            "choices": ["stop", "skip"],
        },
    )
    nan_steps: int = field(
        default=10, metadata={"help": "Steps in a row without a finite loss and gradient that end the run (code 3)."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide nan and inf losses; waits for the device at every batch."}
    )
    torch_compile: bool | None = field(
        default=None,
        metadata={
            "help": "Compile the layers; by default on CUDA in long runs of families that gain.",
            "nargs": "?",
            "const": True,
        },
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search each backward for parameters without gradient."}
    )

    # No flags, but otherwise in a run that was begun when they were: "sorted" the order of an epoch, and training rows
    # of a corpus above 1 GiB not made by chunks.
    row_order = "permuted"
    rows_by_chunk = True

    def __post_init__(self):
        check_raw(self)
        device = torch.accelerator.current_accelerator(check_available=True)
        # Sums are kept in float64, which Apple's MPS lacks.
        self.use_cpu = self.use_cpu or device is None or device.type == "mps"
        self.optim = "adafactor" if self.adafactor else self.optim
        if self.warmup_ratio is not None and not self.warmup_steps:
            self.warmup_steps = self.warmup_ratio
        if self.group_by_length:
            self.train_sampling_strategy = "group_by_length"
        if self.gradient_checkpointing and self.activation_checkpointing is None:
            self.activation_checkpointing = True  # the new name, without transformers' warning about the old one
        if self.fp16 and self.use_cpu:
            logger.warning("--fp16 has no use on a CPU: training with bf16 autocast instead")
            self.fp16, self.bf16 = False, True
        if self.bf16 and not self.use_cpu and device.type == "cuda" and not has_bf16():
            logger.warning("--bf16 needs a card of 2020 (Ampere) or later: training with fp16 autocast instead")
            self.fp16, self.bf16 = True, False
        self.remove_unused_columns = False  # the collator reads columns that no model takes
        output_dir, tf32 = self.output_dir, self.tf32
        if self.torch_compile or self.torch_compile_backend or self.torch_compile_mode:
            self.tf32 = bool(tf32)  # else transformers switches it on, and fp32 is no longer what it is without
        if self.metric_for_best_model is not None:
            self.metric_for_best_model = self.metric_for_best_model.removeprefix("eval_")
            if self.greater_is_better is None:
                self.greater_is_better = not self.metric_for_best_model.endswith(("loss", "perplexity"))
        try:
            super().__post_init__()
        except ValueError as error:
            if "process group" not in str(error):
                raise
            raise UserError(
                f"--ddp_backend {self.ddp_backend} needs several processes; start with torchrun --nproc_per_node N, "
                "or leave it out"
            ) from error
        self.tf32 = tf32
        self.output_dir = output_dir and self.output_dir  # transformers puts a folder of its own choice for none
        self._check()
        if self.device.type == "cuda" and self.n_gpu > 1:
            logger.warning("using 1 of %d GPUs; torchrun --nproc_per_node %s starts on all", self.n_gpu, self.n_gpu)
            self._n_gpu = 1

    def __getstate__(self) -> dict:
        """For training_args.bin, where nothing secret may lie."""
        return vars(self) | {"hub_token": None}

    @property
    def data_processes(self) -> int:
        """How many share the rows: the processes of one model-parallel group read the same ones."""
        return self.world_size // self.model_parallel_size

    @property
    def data_process(self) -> int:
        """Which of these this process is, or its group."""
        return self.process_index // self.model_parallel_size

    @property
    def model_part(self) -> int:
        """Which of its group's processes this one is."""
        return self.process_index % self.model_parallel_size

    @property
    def eval_workers(self) -> int:
        """Processes that collate held-out rows while a device computes; on a CPU they would take its cores."""
        return 0 if self.device.type == "cpu" else self.dataloader_num_workers

    def _check(self):
        """ValueError for values that transformers accepts and that cannot train."""
        check_settled(self)
        if self.schedule_by_time and self.max_train_minutes is None:
            raise UserError("--schedule_by_time needs --max_train_minutes; add it")
        if self.schedule_by_time and self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            raise UserError(
                f"--schedule_by_time needs a schedule of steps, got {self.lr_scheduler_type}; leave it out"
            )
        if self.steps_before < 0 or (self.steps_before and self.schedule is None):
            raise UserError(
                f"--steps_before {self.steps_before} needs --schedule and to be positive; add or change it"
            )
        if self.schedule_floor and (self.schedule != "cosine_to_floor" or not 0 < self.schedule_floor < 1):
            raise UserError(
                f"--schedule_floor {self.schedule_floor} needs --schedule cosine_to_floor and must lie in (0, 1)"
            )
        if self.optimizer == "muon" and not self.adam_bias_correction:
            raise UserError("--optimizer muon needs --adam_bias_correction true; add it")
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise UserError(
                f"--train_sampling_strategy must be random or group_by_length, got {self.train_sampling_strategy}"
            )


@dataclass
class ModelArguments:
    """Which model to train."""

    tokenizer_name: str = field(metadata={"help": "Folder or hub name of the tokenizer the corpus was made with."})
    model_type: str = field(
        default="gau_alpha", metadata={"help": "Architecture of a new model, a model_type string."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Folder or hub name of a new model's config."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Changes to a new model's config: key=value,key=value."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or hub name of a model to continue from."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with a model or tokenizer (auto_map)."}
    )


@dataclass
class AdaptableModelArguments(ModelArguments):
    """Which model to train, and what of it."""

    lora: str | None = field(default=None, metadata={"help": LORA})


@dataclass
class CorpusArguments:
    """What to train and evaluate on."""

    train_dir: str | None = field(
        default=None, metadata={"help": "Corpus folders to train on, the second for 0.3 of the tokens: dir1,dir2:0.3."}
    )
    validation_dir: str | None = field(default=None, metadata={"help": "Corpus folder to evaluate on."})
    validation_split: float | None = field(
        default=None, metadata={"help": "Share of train_dir's documents held out for evaluation, in (0, 1)."}
    )
    packing: str = field(
        default="none",
        metadata={
            "help": "none, concat (rows of whole sentences, across documents) or isolated (documents apart).",
            "choices": ["none", "concat", "isolated"],
        },
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a row; default: what train_dir was prepared for."}
    )
    probe_file: str | None = field(
        default=None,
        metadata={"help": "Sentences with [MASK], behind tabs what belongs there, filled at each evaluation."},
    )


def check_data_flags(data_args: CorpusArguments, args: RunArguments) -> None:
    """ArgumentError for flags that do not go together; do_eval becomes whether there is held-out data."""
    if not (args.do_train or args.do_eval):
        raise ArgumentError("--do_train or --do_eval must be given, got neither; add one")
    if data_args.train_dir is None:
        raise ArgumentError("--train_dir must name a corpus folder, got none; make one with run_chinese_ref.py")
    if args.do_train and args.output_dir is None:
        raise ArgumentError("--output_dir must name the folder of the run, got none; add it")
    if data_args.validation_dir and data_args.validation_split is not None:
        raise ArgumentError("--validation_dir must stand without --validation_split, got both; leave one out")
    if data_args.probe_file and not args.do_train:
        raise ArgumentError("--probe_file needs --do_train; ask a finished model with probe_mlm.py")
    if data_args.probe_file and spreads_weights(args):
        raise ArgumentError("--probe_file must stand without --fsdp and ZeRO stage 3; leave it out")
    held_out = data_args.validation_dir or data_args.validation_split is not None
    if not held_out and (args.do_eval or args.eval_strategy != "no"):
        raise ArgumentError("--do_eval and --eval_strategy need held-out data; add --validation_split 0.01")
    if not held_out and (args.eval_on_start or args.metric_for_best_model):
        flag = "--eval_on_start" if args.eval_on_start else "--metric_for_best_model"
        raise ArgumentError(f"{flag} needs held-out data; add --validation_split 0.01")
    args.do_eval = bool(held_out)


class DataclassParser(FlagParser, HfArgumentParser):
    """Flags of dataclasses: those of our own, by class, before those that a class has from transformers' Trainer.

    hidden: flags of the Trainer that are always refused, besides REFUSED: --help leaves them out.
    """

    def __init__(self, classes: Sequence[type], doc: str = "", foreign: Foreign = NONE, hidden: Sequence[str] = ()):
        self._owners = {name: one for one in classes for name in one.__dataclass_fields__}
        self._hidden, self._titled = {*REFUSED, *hidden}, {}
        super().__init__(classes, doc=doc, foreign=foreign, allow_abbrev=False)

    def add_argument(self, *names: str, **options) -> argparse.Action:
        """For HfArgumentParser, which gives each name with hyphens too; those become underscores before."""
        names, options = self.all_words([name for name in names if "-" not in name[2:]], False, options)
        attribute = options.get("dest", names[0].removeprefix("--"))
        if attribute not in self._owners:  # --help
            return argparse.ArgumentParser.add_argument(self, *names, **options)
        if attribute in self._hidden and issubclass(self._owners[attribute], TrainingArguments):
            options["help"] = argparse.SUPPRESS
        elif options.get("action") == "store_false":
            options["help"] = f"--{attribute} false"
        return self._group(attribute).add_argument(*names, **options)

    def _group(self, attribute: str):
        """The group of a flag; those of our own are made first, to stand first."""
        if not self._titled:
            titles = [_title(one) for one in dict.fromkeys(self._owners.values())]
            self._titled = {title: self.add_argument_group(title) for title in (*titles, TRAINERS)}
        owner = self._owners[attribute]
        own = owner.__dataclass_fields__[attribute] is not TrainingArguments.__dataclass_fields__.get(attribute)
        return self._titled[_title(owner) if own else TRAINERS]


def _title(arguments: type) -> str:
    """What a dataclass of flags is about: the first sentence of its docstring."""
    return arguments.__doc__.split("\n")[0].rstrip(".")


def parse_arguments(
    classes: Sequence[type],
    argv: list[str] | None = None,
    foreign: Foreign = NONE,
    doc: str = "",
    hidden: Sequence[str] = (),
) -> tuple:
    """Read flags, or one JSON or YAML file of flags, into one instance of each dataclass.

    foreign: what is made of other scripts' flags; doc: the script's docstring, for --help; hidden: flags that the
    script always refuses.

    Raises:
        ArgumentError: one line that names the flag.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
        argv = _flags_of_file(argv[0])
    parser = DataclassParser(classes, doc, foreign, hidden)
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError) as error:
        raise ArgumentError(" ".join(str(error).split())) from error
    if unknown:
        raise ArgumentError(f"unknown flags {' '.join(shown_command(unknown))}; --help lists all flags")
    return tuple(parsed)


def _flags_of_file(path: str) -> list[str]:
    """The flags that a file of names and values stands for, so that one parser checks both."""
    try:
        with open(path, encoding="utf-8") as file:
            if path.endswith(".json"):
                values = json.load(file)
            else:
                import yaml

                values = yaml.safe_load(file)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{path} must be a readable file of flags ({error})") from error
    if not isinstance(values, dict):
        raise ArgumentError(f"{path} must map flags to values, got {type(values).__name__}")
    flags = []
    for name, value in values.items():
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in items)]
    return flags


CPU_TOKENS = 8192  # of a micro-batch: more gains no speed on a CPU, and 24 layers of 768 need some 6 GB for them


def split_for_cpu(args: RunArguments, longest: int) -> None:
    """On a CPU, turn micro-batches above CPU_TOKENS tokens into more accumulation: same updates, less memory.

    longest: tokens of the longest row.
    """
    rows = args.per_device_train_batch_size
    if args.device.type != "cpu" or rows * longest <= CPU_TOKENS:
        return
    fitting = max(
        part for part in range(1, rows + 1) if rows % part == 0 and (part * longest <= CPU_TOKENS or part == 1)
    )
    logger.info(
        "CPU: %d rows a micro-batch instead of %d, and %d times the accumulation", fitting, rows, rows // fitting
    )
    args.per_device_train_batch_size = fitting
    args.gradient_accumulation_steps *= rows // fitting


# What makes two runs take the same course; everything else (logging, saving, workers, time limits) may change freely.
_COURSE = """
    seed data_seed max_steps train_sampling_strategy bf16 fp16 tf32 neftune_noise_alpha learning_rate
    lr_scheduler_type lr_scheduler_kwargs warmup_steps schedule_by_time schedule schedule_floor steps_before
    adam_bias_correction max_grad_norm weight_decay adam_beta1 adam_beta2 adam_epsilon optim optim_args optimizer
    muon_learning_rate
"""


def course_settings(args: RunArguments) -> dict:
    """The arguments that decide which weights a run ends with, as JSON values."""
    everything = args.to_dict()
    values = {name: everything[name] for name in _COURSE.split()}
    values["rows_per_step"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.data_processes
    if args.row_order != "sorted":  # which, as the next one, the settings of earlier runs do not name
        values["row_order"] = args.row_order
    if args.rows_by_chunk:
        values["rows_by_chunk"] = True
    if args.model_parallel_size > 1:
        values["model_parallel_size"] = args.model_parallel_size  # into as many parts its checkpoints are cut
    return values


def settle_steps(args: RunArguments, lengths) -> None:
    """Settle the micro-batch, max_steps and what is measured in epochs. lengths: int64 [rows], tokens of each row."""
    split_for_cpu(args, int(lengths.max()))
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.data_processes
    per_epoch_to_steps(args, len(lengths) / rows_per_step)


def per_epoch_to_steps(args: RunArguments, steps_per_epoch: float) -> None:
    """Turn num_train_epochs and `epoch` strategies into numbers of steps, which do not depend on loader lengths.

    With held-out data and no strategy, evaluation comes once, at the end.
    """
    if args.max_steps <= 0:
        args.max_steps = max(1, math.ceil(args.num_train_epochs * steps_per_epoch))
    for kind in ("logging", "eval", "save"):
        strategy = getattr(args, f"{kind}_strategy")
        if strategy == "epoch":
            setattr(args, f"{kind}_strategy", type(strategy)("steps"))
            setattr(args, f"{kind}_steps", math.ceil(steps_per_epoch))
    if args.do_eval and args.eval_strategy == "no":
        args.eval_strategy, args.eval_steps = type(args.eval_strategy)("steps"), args.max_steps


@dataclass
class ModelParallelArguments(RunArguments):
    """How to train, also a model that is cut into parts."""

    model_parallel_size: int = field(
        default=1, metadata={"help": "Adjacent processes that share each layer's matrices; needs --deepspeed."}
    )

    def _check(self):
        super()._check()
        parts = self.model_parallel_size
        if parts < 1 or self.world_size % parts:
            raise UserError(
                f"--model_parallel_size (MP_SIZE) must divide the number of processes, {self.world_size}, "
                f"got {parts}; change one of them"
            )
        if parts > 1 and (not self.deepspeed or self.hf_deepspeed_config.is_zero3()):
            raise UserError(f"--model_parallel_size {parts} needs --deepspeed with ZeRO stage 2 or below; add it")
        if parts > 1:  # older versions pass over what layer_specs says of gradients
            require_version("deepspeed>=0.19.8", f"--model_parallel_size {parts} needs a newer deepspeed; upgrade it")
