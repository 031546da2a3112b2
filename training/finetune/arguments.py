"""Flags of run_glue.py: what one job is (JobArguments) and how many there are (SweepArguments).

A flag of a job that is left out takes the value of --recipe, then the task's own, then the default below. Attributes
have the names under which job.json keeps the flags; common/flags.py has the words by which they are typed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from transformers.hf_argparser import HfArg

from common.errors import ArgumentError
from common.flags import flag_name, spellings
from training.loop.schedules import SCHEDULES
from training.sharing.adapters import HELP as LORA

DEFAULTS = {
    "lr": 2e-5,
    "batch_size": 32,
    "epochs": 3.0,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "schedule": "linear",
    "optimizer": "adamw",
    "betas": "0.9,0.999",
    "eps": 1e-8,
    "clip": 1.0,
    "head": "auto",
    "pooling": "first",
    "muon_lr": 5e-3,
}
# google-research/electra's finetuning of a small or base model, and what it does otherwise for some tasks.
RECIPES = {
    "electra": {
        "lr": 1e-4,
        "batch_size": 32,
        "epochs": 3.0,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "schedule": "original_linear",
        "optimizer": "adamw_nobc",
        "eps": 1e-6,
        "lwlrd": 0.8,
        "lwlrd_offset": 2,
        "head": "linear",
    }
}
_OF_TASK = {
    "electra": {
        "rte": {"epochs": 10.0},
        "stsb": {"epochs": 10.0, "swap_augment": True},
        "mrpc": {"swap_augment": True},
    }
}
# Our name of a schedule: transformers' name.
SCHEDULE_NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup", "poly": "polynomial"}
OPTIMIZERS = ("adamw", "adamw_nobc", "adafactor", "muon")


@dataclass
class JobArguments:
    """What one job trains and evaluates. Every flag may stand in --grid."""

    model: str | None = HfArg(
        default=None,
        help="Folder or hub name of the encoder, or of a finetuned model.",
    )
    tokenizer: str | None = HfArg(default=None, help="Its tokenizer; default: the model's.")
    arch: str | None = HfArg(default=None, help="model_type that the model must be of.")
    lora: str | None = HfArg(default=None, help=LORA)
    random_init: bool = HfArg(default=False, help="Take only the shape of the model, with random weights.")
    head: str | None = HfArg(default=None, help="auto (the family's own) or linear (dropout and one linear layer).")
    pooling: str | None = HfArg(default=None, help="What the linear head reads: first (token), mean or max of all.")
    dropout: float | None = HfArg(default=None, help="Of encoder and head; default: what the model was made with.")
    trust_remote_code: bool = HfArg(default=False, help="Run code that comes with model or tokenizer (auto_map).")
    token_types: str = HfArg(default="auto", help="auto, yes or no: tell the segments of a pair apart.")
    recipe: str | None = HfArg(default=None, help="Published recipe for flags left out: electra.")

    data_dir: str | None = HfArg(default=None, help="Folder that holds a folder for each task.")
    source: str = HfArg(default="auto", help="auto (local if --data_dir has the task), local or hub.")
    train_file: str | None = HfArg(default=None, help="Training file of a task of your own.")
    validation_file: str | None = HfArg(default=None, help="Validation file of a task of your own.")
    test_file: str | None = HfArg(default=None, help="Test file of a task of your own.")
    dataset_name: str | None = HfArg(
        default=None, help="Data set of the hub, or folder of one, in place of these files."
    )
    dataset_config_name: str | None = HfArg(default=None, help="Its configuration.")
    text_columns: str | None = HfArg(
        default=None,
        help="Its text column or two of them: a,b.",
    )
    label_column: str | None = HfArg(default=None, help="Its label column.")
    kind: str | None = HfArg(
        default=None,
        help="Its kind: classification, multi_label, regression, multiple_choice, question_answering, tagging.",
    )
    csl_joiner: str = HfArg(default=" ", help="What stands between the keywords of CSL.")

    do_train: bool = HfArg(default=False, help="Train; without --do_eval it does so anyway.")
    do_eval: bool = HfArg(default=False, help="Evaluate only, with the head of the model, unless --do_train.")
    do_predict: bool = HfArg(default=False, help="Predict the test splits, and score those with labels.")
    label_order: str | None = HfArg(default=None, help="Labels of the model's outputs, if it has no names: a,b,c.")

    max_length: int | None = HfArg(default=None, help="Tokens of a row.")
    doc_stride: int = HfArg(default=128, help="Tokens that windows of one context share.")
    long_rows: str = HfArg(default="window", help="Rows too long at evaluation: window (averaged) or truncate.")
    swap_augment: bool | None = HfArg(
        default=None, help="Train on every pair in both orders.", metadata={"nargs": "?", "const": True}
    )
    batch_size: int | None = HfArg(
        default=None,
        help="Rows of a micro-batch on one device.",
    )
    eval_batch_size: int | None = HfArg(
        default=None,
        help="Rows of a batch of evaluation; default: as in training.",
    )
    grad_accum: int = HfArg(default=1, help="Micro-batches of an update.")
    lr: float | None = HfArg(default=None, help="Peak learning rate.")
    epochs: float | None = HfArg(default=None, help="Passes over the training rows.")
    max_steps: int = HfArg(default=-1, help="Updates; overrides --num_train_epochs.")
    warmup_ratio: float | None = HfArg(default=None, help="Share of the updates over which the rate rises.")
    warmup_steps: int | None = HfArg(default=None, help="The same in updates; overrides --warmup_ratio.")
    weight_decay: float | None = HfArg(default=None, help="Of all but biases and norms.")
    schedule: str | None = HfArg(
        default=None,
        aliases=["--lr_scheduler_type"],
        help=f"{', '.join(SCHEDULE_NAMES)} or one of {', '.join(SCHEDULES)}.",
    )
    optimizer: str | None = HfArg(default=None, help=f"{', '.join(OPTIMIZERS)}; nobc: no bias correction.")
    muon_lr: float | None = HfArg(default=None, help="Peak learning rate of hidden matrices under muon.")
    betas: str | None = HfArg(default=None, help="Adam's betas, as 0.9,0.999; or --adam_beta1 and --adam_beta2.")
    eps: float | None = HfArg(default=None, help="Adam's epsilon.")
    clip: float | None = HfArg(default=None, help="Most norm of a gradient; 0 for any.")
    dtype: str = HfArg(default="fp32", help="fp32, fp16 or bf16 (autocast); --fp16 and --bf16 say the same.")
    on_nan: str = HfArg(default="stop", help="Steps without a finite gradient: stop after --nan_steps, or skip them.")
    nan_steps: int = HfArg(default=10, help="Steps in a row without a finite loss and gradient that end the job.")

    lwlrd: float | None = HfArg(default=None, help="Layer-wise decay of the learning rate, in (0, 1]; 0.8 is usual.")
    lwlrd_offset: int | None = HfArg(default=None, help="Depth of the head above the last layer: 1 or 2 (ELECTRA).")
    fgm_eps: float = HfArg(default=0.0, help="Length of FGM's move of the word embeddings; 1 is usual.")
    rdrop: float = HfArg(default=0.0, help="Weight of R-Drop's divergence; 1 to 5 is usual.")
    label_smoothing: float = HfArg(default=0.0, help="Share of a target spread over all labels, in [0, 1).")
    class_weights: str | None = HfArg(default=None, help="balanced, or a number for each label: 1,2.5.")

    logging_steps: int = HfArg(default=20, help="Updates between training records.")
    eval_steps: int | None = HfArg(
        default=None, help="Updates between evaluations; default: --save_steps, or an epoch."
    )
    save_steps: int | None = HfArg(
        default=None, help="Updates between checkpoints; default: --eval_steps, or an epoch."
    )
    eval_strategy: str | None = HfArg(
        default=None,
        help="steps, epoch or no (at the end only); default: epoch without --eval_steps.",
    )
    save_strategy: str | None = HfArg(default=None, help="steps or epoch; default: epoch without --save_steps.")
    patience: int | None = HfArg(
        default=None,
        help="Evaluations without a better one after which training stops.",
    )
    select: str = HfArg(default="best", help="Weights to keep: best on validation (ties: the earlier) or last.")
    metric_for_best: str | None = HfArg(default=None, help="Metric to select by; default: the task's first.")
    keep_model: bool = HfArg(default=True, help="Keep the selected weights in best/.")
    n_best: int = HfArg(default=20, help="Starts and ends of answers that are considered.")
    max_answer: int = HfArg(default=50, help="Most tokens of an answer.")
    chid_decode: str = HfArg(default="optimal", help="How ChID's idioms are given out: argmax, greedy or optimal.")

    max_train_samples: int | None = HfArg(default=None, help="Train on the first so many records: no submission.")
    max_eval_samples: int | None = HfArg(default=None, help="Evaluate the first so many records: no submission.")
    max_predict_samples: int | None = HfArg(default=None, help="The same of test records alone: no submission.")
    overfit: int | None = HfArg(default=None, help="Train and evaluate on the first so many training records.")
    dry_run: bool = HfArg(default=False, help="Two updates and a few rows of evaluation, to see that all works.")

    def __post_init__(self):
        choices = {
            "head": (None, "auto", "linear"),
            "token_types": ("auto", "yes", "no"),
            "recipe": (None, *RECIPES),
            "long_rows": ("window", "truncate"),
            "schedule": (None, *SCHEDULE_NAMES, *SCHEDULES),
            "optimizer": (None, *OPTIMIZERS),
            "dtype": ("fp32", "fp16", "bf16"),
            "select": ("best", "last"),
            "eval_strategy": (None, "no", "steps", "epoch"),
            "save_strategy": (None, "steps", "epoch"),
            "lwlrd_offset": (None, 1, 2),
            "pooling": (None, "first", "mean", "max"),
            "chid_decode": ("argmax", "greedy", "optimal"),
            "source": ("auto", "local", "hub"),
            "on_nan": ("stop", "skip"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                listed = ", ".join(str(value) for value in allowed if value is not None)
                shown = f"--{flag_name(name)}"
                raise ArgumentError(f"{shown} must be one of {listed}, got {getattr(self, name)}; correct it")
        self._check_numbers()
        if self.lora and (self.fgm_eps or self.random_init):
            other = (
                "--random_init" if self.random_init else "--fgm_eps, which moves word embeddings that are not trained"
            )
            raise ArgumentError(f"--lora must stand without {other}; leave one of them out")
        if self.optimizer == "muon" and self.lwlrd is not None:
            raise ArgumentError("--layer_decay must stand without --optimizer muon, got both; leave one of them out")

    def _check_numbers(self) -> None:
        ones = ("batch_size", "eval_batch_size", "grad_accum", "logging_steps", "eval_steps", "save_steps", "patience")
        ones += ("overfit", "max_train_samples", "max_eval_samples", "max_predict_samples", "nan_steps")
        ones += ("n_best", "max_answer")
        at_least = {"max_length": 4} | dict.fromkeys(ones, 1)
        at_least |= dict.fromkeys(("fgm_eps", "rdrop", "clip", "doc_stride"), 0)
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ArgumentError(f"--{flag_name(name)} must be at least {least}, got {value}; raise it")
        for name, value, least, most in (
            ("label_smoothing", self.label_smoothing, 0, 1 - 1e-9),
            ("lwlrd", 1 if self.lwlrd is None else self.lwlrd, 1e-9, 1),
            ("dropout", self.dropout or 0, 0, 1 - 1e-9),
            ("lr", 1 if self.lr is None else self.lr, 1e-30, float("inf")),
            ("muon_lr", 1 if self.muon_lr is None else self.muon_lr, 1e-30, float("inf")),
            ("epochs", 1 if self.epochs is None else self.epochs, 1e-9, float("inf")),
        ):
            if not least <= value <= most:
                low = "[0" if least == 0 else "(0"
                high = "any)" if most == float("inf") else "1]" if most == 1 else "1)"
                raise ArgumentError(f"--{flag_name(name)} must lie in {low}, {high}, got {value}; change it")

    @property
    def trains(self) -> bool:
        """Whether it is asked to train, if there is something to train on."""
        return self.do_train or not self.do_eval

    def settle(self, task_name: str, task_defaults: Mapping[str, float]) -> "JobArguments":
        """The same with a value for every flag that decides about training."""
        recipe = RECIPES.get(self.recipe, {}) | _OF_TASK.get(self.recipe, {}).get(task_name, {})
        values = DEFAULTS | dict(task_defaults) | recipe
        names = {field.name for field in fields(self)}
        unknown = sorted(values.keys() - names)
        if unknown:
            raise ArgumentError(f"recipe of {task_name} must hold flags of a job, got {unknown[0]}")
        typed = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return type(self)(**values | typed)

    def changed(self) -> dict:
        """Flags whose value is not their default: what a job is told, and known by."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}


@dataclass
class SweepArguments:
    """Which jobs there are, and where they run."""

    tasks: str | None = HfArg(
        default=None,
        aliases=["--task_name"],
        help="Tasks or groups: sst2,rte; glue, clue10, all; adhoc for your files.",
    )
    output_dir: str | None = HfArg(default=None, help="Folder of all results; the same command goes on there.")
    seeds: str = HfArg(default="42", help="One job for each of these: 1,2,3.")
    grid: str | None = HfArg(
        default=None, help="One job for each combination of learning_rate=1e-5,2e-5;weight_decay=0,0.1."
    )
    init_from_task: str | None = HfArg(
        default=None, help="Start tasks from another one's best weights: rte,mrpc,stsb=mnli; auto: where it is usual."
    )
    device: str | None = HfArg(default=None, help="gpu or cpu; default: gpu where there is one; --use_cpu says cpu.")
    gpus: str | None = HfArg(default=None, help="GPUs to use: 0,1; default: all.")
    jobs_per_gpu: int = HfArg(default=1, help="Jobs at the same time on each GPU, or on the CPU.")
    resume: bool = HfArg(default=True, help="Leave out finished jobs and go on with begun ones.")
    max_retries: int = HfArg(default=1, help="Further attempts at a job that fails.")
    baseline: str | None = HfArg(default=None, help="Configuration to compare the others with in the summary.")
    submission_dir: str | None = HfArg(default=None, help="Folder for glue.zip and CLUE's zips; needs --do_predict.")
    team: str = HfArg(default="team", help="Name in CLUE's submission file.")
    clue_version: str = HfArg(default="both", aliases=["--version"], help="CLUE board: 1.0, 1.1 or both.")
    wnli_majority: bool = HfArg(default=False, help="Submit WNLI's majority class instead of predictions.")
    push_to_hub: bool = HfArg(default=False, help="Upload the best weights of each task to the hub at the end.")
    hub_model_id: str | None = HfArg(
        default=None, help="Their repository; default: the name of --output_dir; of several tasks NAME-TASK each."
    )
    hub_token: str | None = HfArg(default=None, help="Its token; default: that of hf auth login.")
    hub_private_repo: bool | None = HfArg(default=None, help="Make new repositories private.")
    hub_revision: str | None = HfArg(default=None, help="Its branch.")
    job: str | None = HfArg(default=None, help="Run the one job of this folder's job.json and nothing else.")

    def __post_init__(self):
        for name, allowed in (("device", (None, "gpu", "cpu")), ("clue_version", ("1.0", "1.1", "both"))):
            if getattr(self, name) not in allowed:
                listed = ", ".join(str(value) for value in allowed if value)
                raise ArgumentError(f"--{name} must be one of {listed}, got {getattr(self, name)}; correct it")


def flag_names(arguments: type = JobArguments) -> dict[str, str]:
    """Whatever may be typed for a flag of a job, without dashes -> its attribute."""
    own = {word: field.name for field in fields(arguments) for word in spellings(field.name)}
    aliases = {alias[2:]: field.name for field in fields(arguments) for alias in field.metadata.get("aliases") or []}
    return own | aliases


def grid_of_flags(text: str | None) -> str | None:
    """--grid as typed, with fp16=true and bf16=true,false as dtype=fp16 and dtype=bf16,fp32."""
    return text and re.sub(r"(?:^|(?<=;))\s*(?:--)?(fp16|bf16)\s*=([^;]*)", _dtypes, text)


def label_of_flags(text: str | None) -> str | None:
    """A configuration's label as typed for --baseline, flag=value,flag=value, by the attributes that labels have."""
    names = flag_names()
    return text and re.sub(r"(?:^|(?<=,))(\w+)(?==)", lambda name: names.get(name[1], name[1]), text)


def _dtypes(part: re.Match) -> str:
    name, values = part[1], [value.strip().lower() for value in part[2].split(",")]
    if not {*values} <= {"true", "false"}:
        raise ArgumentError(f"--grid must give {name} the values true and false, got {part[0]!r}; correct it")
    return "dtype=" + ",".join(name if value == "true" else "fp32" for value in values)
