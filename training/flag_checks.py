"""Values of transformers' flags that cannot train, that need what is not there, or that would do nothing here.

transformers takes most of them and fails in the middle of a run, or not at all. All functions raise UserError with
one line that names the flag.
"""

import copy
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import torch

from common.errors import UserError, describe_fault

logger = logging.getLogger(__name__)

_INF, _HUGE = math.inf, 1e38
_ABOVE_0, _BELOW_1 = sys.float_info.min, math.nextafter(1, 0)  # no denormal, which a CPU may take for 0
# least, most, flags; None is always allowed.
_RANGES = (
    (1, _INF, "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps nan_steps"),
    (1, _INF, "dataloader_prefetch_factor ddp_timeout"),
    (0, _INF, "max_grad_norm dataloader_num_workers"),
    (0, _HUGE, "learning_rate weight_decay warmup_steps neftune_noise_alpha eval_delay"),
    (_ABOVE_0, _INF, "max_train_minutes"),
    (_ABOVE_0, _HUGE, "adam_epsilon muon_learning_rate"),
    (0, _BELOW_1, "adam_beta1 adam_beta2 warmup_ratio"),
    (0, 2**32 - 1, "seed"),
    (-(2**63), 2**63 - 1, "data_seed"),
    (-_INF, 2**53, "max_steps"),
)
# Not supported: the value to leave, and why.
REFUSED = {
    "auto_find_batch_size": (False, "it would change the run's course"),
    "save_only_model": (False, "a checkpoint holds all that a run needs to go on"),
    "save_on_each_node": (False, "the first process's folder holds all, and what others lack of it is sent to them"),
    "label_smoothing_factor": (0.0, "the objective has none"),
    "fp16_full_eval": (False, "evaluation runs under the training's autocast"),
    "bf16_full_eval": (False, "evaluation runs under the training's autocast"),
    "average_tokens_across_devices": (True, "every loss is that of the whole step"),
    "enable_jit_checkpoint": (False, "SIGTERM, SIGUSR1 and SIGHUP write a checkpoint anyway"),
    "accelerator_config": (None, "batches are shared out by this repository's own samplers"),
    "parallelism_config": (None, "see --model_parallel_size and --deepspeed"),
    "dataloader_in_order": (True, "a run must be repeatable"),
    "include_for_metrics": ([], "metrics are sums that the objective defines"),
    "batch_eval_metrics": (False, "metrics are sums that the objective defines"),
    "label_names": (None, "the objective knows its labels"),
    "length_column_name": ("length", "lengths are read from the rows"),
    "skip_memory_metrics": (True, "memory is not logged"),
    "do_predict": (False, "there is nothing to predict here"),
    "hub_always_push": (False, "the finished model is pushed, once"),
}
# Without effect unless another flag is given.
_NEEDS = {
    "push_to_hub": "hub_model_id hub_token hub_private_repo hub_revision",
    "use_liger_kernel": "liger_kernel_config",
    "activation_checkpointing": "activation_checkpointing_kwargs",
    "gradient_checkpointing": "gradient_checkpointing_kwargs",
    "fsdp": "fsdp_config",
    "metric_for_best_model": "greater_is_better",
    "dataloader_num_workers": "dataloader_multiprocessing_context",
}
_CHECKPOINTING = {"use_reentrant", "context_fn", "determinism_check", "debug", "preserve_rng_state", "early_stop"}
_ADAMW = ("adamw_torch", "adamw_torch_fused")


def check_raw(args) -> None:
    """Before transformers looks at the flags and changes some of them."""
    for least, most, names in _RANGES:
        for name in names.split():
            value = getattr(args, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"--{name} must {_describe(least, most)}, got {value}")
    if args.max_steps <= 0 and args.num_train_epochs is not None and not 0 < args.num_train_epochs < 1e15:
        raise UserError(
            f"--num_train_epochs must be positive where --max_steps is not given, got {args.num_train_epochs}"
        )
    for kind in ("logging", "save", "eval"):
        every, strategy = getattr(args, f"{kind}_steps"), getattr(args, f"{kind}_strategy")
        if every is not None and strategy == "steps" and not 0 < every < math.inf:
            raise UserError(f"--{kind}_steps must be positive, got {every}; to have none give --{kind}_strategy no")
    for name, (usual, why) in REFUSED.items():
        if getattr(args, name, usual) != usual:
            raise UserError(f"--{name} {getattr(args, name)} is not supported here, as {why}; leave it out")
    if args.fp16 and args.bf16:
        raise UserError("--fp16 must stand without --bf16, got both; leave one of them out")
    for name in ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        value = getattr(args, name)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            with suppress(ValueError):
                value = json.loads(value)
        if value is not None and not isinstance(value, dict):
            raise UserError(f"--{name} must be a JSON object of names and values, got {value}")
        if value and name != "lr_scheduler_kwargs" and not value.keys() <= _CHECKPOINTING:
            raise UserError(f"--{name} must hold {', '.join(sorted(_CHECKPOINTING))}, got {', '.join(value)}")
    if args.eval_steps is not None and args.eval_strategy == "no":
        logger.warning("--eval_steps has no effect without --eval_strategy steps")
    for wanted, names in _NEEDS.items():
        for name in names.split():
            if getattr(args, name, None) not in (None, False) and not getattr(args, wanted):
                logger.warning("--%s has no effect without --%s", name, wanted)
    _check_output(args)
    _check_packages(args)
    _check_compile(args)


def check_settled(args) -> None:
    """After transformers has settled the flags: what does not go together."""
    if args.fsdp and args.world_size < 2:
        raise UserError("--fsdp needs several processes; start with torchrun --nproc_per_node N, or leave it out")
    if (args.fsdp or args.deepspeed) and not args.do_train:
        flag = "--fsdp" if args.fsdp else "--deepspeed"
        raise UserError(f"{flag} needs --do_train; measure the finished model without it")
    if args.push_to_hub and args.hub_strategy not in ("end", "every_save"):
        raise UserError(
            f"--hub_strategy {_shown(args.hub_strategy)} is not supported here: the final model is pushed; give end"
        )
    if args.push_to_hub and not args.do_train:
        raise UserError("--push_to_hub pushes what a training leaves; add --do_train")
    if args.schedule is not None and args.lr_scheduler_kwargs:
        raise UserError(
            f"--lr_scheduler_kwargs have no effect under --schedule {args.schedule}; leave one of them out"
        )
    if args.schedule is not None and args.lr_scheduler_type != "linear":
        logger.warning(
            "--lr_scheduler_type %s has no effect under --schedule %s", _shown(args.lr_scheduler_type), args.schedule
        )
    if args.optimizer == "muon" and (args.optim not in _ADAMW or args.optim_args):
        raise UserError(
            f"--optim {_shown(args.optim)} and --optim_args have no effect under --optimizer muon; leave them out"
        )
    if not args.adam_bias_correction and (args.optim not in _ADAMW or args.optim_args):
        raise UserError(
            f"--adam_bias_correction false needs --optim adamw_torch without --optim_args, got {_shown(args.optim)}"
        )
    if args.optim_target_modules is not None and not args.optim.startswith(("galore", "apollo")):
        raise UserError(f"--optim_target_modules has no effect on --optim {_shown(args.optim)}; leave it out")


@contextmanager
def flags_blamed(args, flag: str = "") -> Iterator[None]:
    """Name the flags where transformers or torch cannot work with them; what the machine did stays what it is."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        text = " ".join(str(error).split())
        if "Callback requires" in text or "are supported" in text:
            flag = f"--report_to {' '.join(args.report_to)}"
        elif flag:
            flag = f"{flag} {_shown(getattr(args, flag[2:]))}"
        elif describe_fault(error) is not None:
            raise
        raise UserError(f"{flag}: {text}" if flag else text) from error


@contextmanager
def loggers_blamed(args) -> Iterator[None]:
    """Name --report_to where a package that it names raises an error of its own: no login, no answer."""
    try:
        yield
    except Exception as error:
        name = type(error).__module__.partition(".")[0]
        if name not in args.report_to:
            raise
        text = " ".join(str(error).split())
        raise UserError(f"--report_to {name}: {text}; mend that, set it to work offline, or leave it out") from error


def _shown(value) -> str:
    """As it was typed: transformers makes enumerations of some flags."""
    return str(getattr(value, "value", value))


def check_optimizer(args, model, choose) -> None:
    """That --optim has its package and --optim_args say something; choose: Trainer.get_optimizer_cls_and_kwargs."""
    with flags_blamed(args, "--optim"):
        _, options = choose(args, model)
    if args.optim_args:
        plain = copy.copy(args)
        plain.optim_args = None
        if str(choose(plain, model)[1]) == str(options):
            raise UserError(
                f"--optim_args {args.optim_args} has no effect on --optim {_shown(args.optim)}; leave it out"
            )


def check_scheduler(scheduler, steps: int) -> None:
    """Ask a schedule of steps for some of its rates, which is when most of its mistakes come out."""
    for rule in getattr(scheduler, "lr_lambdas", ()):
        for step in {0, 1, steps // 2, steps - 1, steps}:
            if not isinstance(rate := rule(step), int | float) or not math.isfinite(rate):
                raise ValueError(f"a learning rate of {rate} x --learning_rate at step {step}")


def _describe(least: float, most: float) -> str:
    finite = " and finite" if most == _HUGE else ""
    if least == _ABOVE_0:
        return "be positive" + finite
    if most == _BELOW_1:
        return f"lie in [{least}, 1)"
    if most >= _HUGE:
        return f"be at least {least}{finite}"
    return f"be at most {most}" if least == -_INF else f"lie in {least}..{most}"


def _check_output(args) -> None:
    """Folders whose names or places cannot be written to."""
    for name in ("output_dir", "logging_dir"):
        path = getattr(args, name)
        if path is None:
            continue
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"--{name} must be a name in UTF-8, got {os.fsencode(path)!r}; choose another one, and start Python "
                "without LC_ALL=C and PYTHONUTF8=0"
            ) from None
        if os.path.islink(path) and not os.path.exists(path):
            raise UserError(
                f"--{name} must be a folder, got {path}, a link to {os.readlink(path)}, which is not there; make that "
                "folder or name another one"
            )


def _check_packages(args) -> None:
    for flag, package, wanted in (
        ("--deepspeed", "deepspeed", args.deepspeed),
        ("--use_liger_kernel", "liger_kernel", args.use_liger_kernel),
    ):
        if wanted and find_spec(package) is None:
            raise UserError(f"{flag} needs the package {package}; install it with pip, or leave the flag out")
    settings = args.deepspeed if isinstance(args.deepspeed, str) else "{}"
    if not settings.lstrip().startswith("{") and not Path(settings).is_file():
        raise UserError(f"--deepspeed must name a JSON file, got {settings}, which is not there")


def _check_compile(args) -> None:
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    if not (args.torch_compile or backend or mode):
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend is not None and backend not in known:
        raise UserError(f"--torch_compile_backend must be one of {', '.join(known)}, got {backend}")
    if backend in (None, "inductor"):
        compilers = (os.environ.get("CXX"), "g++", "clang++", "c++", "gcc", "clang", "cc")
        if not any(shutil.which(name) for name in compilers if name):
            raise UserError(
                "--torch_compile needs a C++ compiler, got none on PATH; install g++ or leave the flag out"
            )
    try:
        torch.compile(torch.nn.Identity(), backend=backend or "inductor", mode=mode)
    except RuntimeError as error:
        raise UserError(f"--torch_compile_mode {mode}: {' '.join(str(error).split())}") from error
