"""Flags of run_electra.py. What is left out takes the published value for --size.

Sources: google-research/electra's configure_pretraining.py and the table of hyperparameters in Clark et al. 2020;
defaults are those of richarddwang/electra_pytorch's vanilla configuration.
"""

import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from common.errors import ArgumentError, UserError
from training.arguments import CorpusArguments, ModelArguments, RunArguments

logger = logging.getLogger(__name__)


class Recipe(NamedTuple):
    """Published settings: share of tokens masked, peak rate, rows of a step, steps, most tokens of a row, warmup."""

    mlm_probability: float
    learning_rate: float
    rows: int
    steps: int
    tokens: int
    warmup: int = 10_000


RECIPES = {
    "small": Recipe(0.15, 5e-4, 128, 1_000_000, 128),
    "base": Recipe(0.15, 2e-4, 256, 766_000, 512),
    "large": Recipe(0.25, 2e-4, 2048, 400_000, 512),
}


@dataclass
class ElectraModelArguments(ModelArguments):
    """Which networks to train and how the generator's tokens are sampled."""

    model_type: str = field(
        default="electra", metadata={"help": "Family of new networks: electra, gau_alpha or another model_type."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or hub name of a new discriminator's config."}
    )
    generator_config_name: str | None = field(
        default=None, metadata={"help": "Folder or hub name of a new generator's config."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Changes to a new discriminator's config; the generator follows: key=value,..."},
    )
    generator_overrides: str | None = field(
        default=None, metadata={"help": "Changes to a new generator's config: key=value,key=value."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Discriminator to continue from, or a folder of a run of this script."}
    )
    generator_name_or_path: str | None = field(default=None, metadata={"help": "Generator to continue from."})
    unigram_bias: bool = field(
        default=False, metadata={"help": "Start a new generator's output bias at log word frequencies."}
    )
    count_embeddings: bool = field(
        default=False, metadata={"help": "Start new networks' word embeddings at vectors of counted neighbours."}
    )
    sampling: str = field(default="fp32_gumbel", metadata={"help": "fp32_gumbel, fp16_gumbel or multinomial."})
    temperature: float = field(default=1.0, metadata={"help": "Of the softmax that replacements are drawn from."})
    initial_temperature: float | None = field(
        default=None,
        metadata={"help": "The same at the first update: it falls to --temperature over a quarter of the training."},
    )
    disallow_correct: bool = field(default=False, metadata={"help": "Never draw the original token."})
    uniform_generator: bool = field(
        default=False, metadata={"help": "Draw replacements uniformly, without a generator."}
    )
    untied_generator: bool = field(default=True, metadata={"help": "Give the generator an encoder of its own."})
    untied_generator_embeddings: bool = field(
        default=False, metadata={"help": "Give the generator embeddings of its own."}
    )
    electra_objective: bool = field(
        default=True, metadata={"help": "Train the discriminator; else the generator alone, a masked LM."}
    )
    gen_weight: float = field(default=1.0, metadata={"help": "Weight of the generator's loss."})
    disc_weight: float = field(default=50.0, metadata={"help": "Weight of the discriminator's loss."})
    gen_smooth_label: str = field(
        default="False", metadata={"help": "Label smoothing of the generator: False, True (0.1) or a share."}
    )
    disc_smooth_label: str = field(
        default="False", metadata={"help": "Target of original tokens: False (0), True (0.1) or a share."}
    )
    init: str = field(default="hf", metadata={"help": "Initial weights: hf (normal) or google (truncated, Glorot)."})

    def __post_init__(self):
        for name in ("gen_smooth_label", "disc_smooth_label"):
            typed = str(getattr(self, name))
            try:
                value = {"false": False, "none": False, "true": True}.get(typed.lower())
                setattr(self, name, float(typed) if value is None else value)
            except ValueError:
                raise UserError(f"--{name} must be False, True or a number in [0, 1), got {typed}") from None


@dataclass
class ElectraDataArguments(CorpusArguments):
    """What to train on and how to mask it."""

    electra_data: str | None = field(
        default=None,
        metadata={
            "help": "Rows of two segments: reference (default; cuts rows off) or packed (carries the rest on).",
            "choices": ["reference", "packed"],
        },
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a row; default: that of --size."}
    )
    mask_unit: str = field(
        default="token", metadata={"help": "What is masked whole: word or token.", "choices": ["word", "token"]}
    )
    mlm_probability: float | None = field(
        default=None, metadata={"help": "Masked tokens per token, in (0, 1); default: that of --size."}
    )
    mask_style: str = field(
        default="electra",
        metadata={
            "help": "electra (85 %% [MASK], 15 %% kept) or bert (80 %% [MASK], 10 %% kept, 10 %% random).",
            "choices": ["electra", "bert"],
        },
    )
    eval_mask_unit: str = field(
        default="token", metadata={"help": "--mask_unit of held-out rows.", "choices": ["word", "token"]}
    )
    eval_mlm_probability: float = field(default=0.15, metadata={"help": "--mlm_probability of held-out rows."})
    eval_mask_style: str = field(
        default="electra", metadata={"help": "--mask_style of held-out rows.", "choices": ["electra", "bert"]}
    )
    exclude_unk: bool = field(default=True, metadata={"help": "Never mask [UNK], as no other special token."})


@dataclass
class ElectraRunArguments(RunArguments):
    """How to train: as RunArguments, with ELECTRA's defaults."""

    size: str = field(
        default="small", metadata={"help": "Published settings to start from.", "choices": list(RECIPES)}
    )
    base_run_name: str = field(
        default="vanilla", metadata={"help": "Run name is this and the seed; empty or None: the time."}
    )
    checkpoint_percents: list[float] = field(
        default_factory=lambda: [6.25, 12.5, 25.0, 50.0, 100.0],
        metadata={"help": "Percents of max_steps after which a checkpoint is kept for good."},
    )
    seed: str = field(default="11081", metadata={"help": "Of all draws; 0 or None draws one and logs it."})
    per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of a micro-batch; default: that of --size over all processes."}
    )
    learning_rate: float | None = field(default=None, metadata={"help": "Peak rate; default: that of --size."})
    warmup_steps: float | None = field(default=None, metadata={"help": "Steps, or a share below 1; default: 10,000."})
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Passes over the rows, if max_steps is not given."}
    )
    max_steps: int = field(default=-1, metadata={"help": "Updates; default: that of --size."})
    schedule: str | None = field(
        default="original_linear", metadata=RunArguments.__dataclass_fields__["schedule"].metadata
    )
    adam_bias_correction: bool = field(
        default=False, metadata=RunArguments.__dataclass_fields__["adam_bias_correction"].metadata
    )
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Added to the root of Adam's second moment."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of all but biases and norms."})
    layer_decay: float | None = field(
        default=None, metadata={"help": "Layer-wise decay of the discriminator's learning rate, in (0, 1]; off."}
    )
    layer_decay_offset: int = field(
        default=2,
        metadata={"help": "Depth of its head above the last layer: 2 (original) or 1 (paper).", "choices": [1, 2]},
    )
    dataloader_num_workers: int = field(default=3, metadata={"help": "Processes that make batches."})
    logging_steps: float = field(default=100, metadata={"help": "Updates between training records."})
    save_steps: float = field(default=10_000, metadata={"help": "Updates between checkpoints."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints to keep besides those of checkpoint_percents."}
    )

    def __post_init__(self):
        recipe = RECIPES[self.size]
        if self.lr_scheduler_type != "linear" and self.schedule == "original_linear":
            self.schedule = None  # our default gives way
        if self.adafactor or self.optim not in ("adamw_torch", "adamw_torch_fused"):
            self.adam_bias_correction = True
        self.seed = 0 if self.seed in ("None", "False", "") else int(self.seed)
        self.learning_rate = recipe.learning_rate if self.learning_rate is None else self.learning_rate
        if self.warmup_steps is None:
            self.warmup_steps = recipe.warmup if self.warmup_ratio is None else 0
        if self.max_steps <= 0 and self.num_train_epochs is None:
            self.max_steps = recipe.steps
        self.num_train_epochs = self.num_train_epochs or 1.0
        by_size = self.per_device_train_batch_size is None
        self.per_device_train_batch_size = recipe.rows if by_size else self.per_device_train_batch_size
        super().__post_init__()
        parts = self.data_processes * self.gradient_accumulation_steps
        if by_size:
            if recipe.rows % parts:
                raise UserError(
                    f"--gradient_accumulation_steps times processes must divide the {recipe.rows} rows of --size "
                    f"{self.size}, got {parts}; give --per_device_train_batch_size"
                )
            self.per_device_train_batch_size = recipe.rows // parts
        if self.layer_decay is not None and (not 0 < self.layer_decay <= 1 or self.optimizer == "muon"):
            raise UserError(
                f"--layer_decay must lie in (0, 1] and stand without muon, got {self.layer_decay}; change it"
            )
        if not all(0 < percent <= 100 for percent in self.checkpoint_percents):
            raise UserError(f"--checkpoint_percents must lie in (0, 100], got {self.checkpoint_percents}")
        os.environ.setdefault("WANDB_PROJECT", "electra_pretrain")

    @property
    def kept_steps(self) -> set[int]:
        """Steps after which a checkpoint is kept for good."""
        return {max(1, round(self.max_steps * percent / 100)) for percent in self.checkpoint_percents}


def fill_from_size(data_args: ElectraDataArguments, args: ElectraRunArguments) -> None:
    """Give the data flags that were left out the values of --size."""
    recipe = RECIPES[args.size]
    if data_args.mlm_probability is None:
        data_args.mlm_probability = recipe.mlm_probability
    if data_args.max_seq_length is None:
        data_args.max_seq_length = recipe.tokens
    if data_args.packing != "none" and data_args.electra_data is not None:
        raise ArgumentError(
            f"--electra_data {data_args.electra_data} must stand without --packing {data_args.packing}, got both; "
            "leave one out"
        )
    data_args.electra_data = data_args.electra_data or "reference"


def run_name(args: ElectraRunArguments) -> str:
    """`base_seed`, or the month, day and time in Beijing as ten digits."""
    if args.base_run_name in ("", "None", "False"):
        return f"{datetime.now(UTC) + timedelta(hours=8):%m%d%H%M%S}"
    return f"{args.base_run_name}_{args.seed}"
