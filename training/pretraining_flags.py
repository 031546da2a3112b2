"""Flags of the pretraining and generation scripts that ours replace: renamed, taken, or answered in one line.

Those are transformers' run_clm, run_mlm, run_mlm_wwm, their no_trainer forms and run_generation, JunnYu's run_mlm_wwm,
PaddleNLP's run_pretrain, THUDM's pretraining, finetuning and generation of Chinese Transformer-XL (Megatron's flags),
and the settings of richarddwang/electra_pytorch's pretrain.py. TRAINING and GENERATION are for common/flags.py.
"""

from collections.abc import Callable

from common.flags import FALSE, TRUE, Foreign, switch
from training.loop.schedules import SCHEDULES

_RENAMED = {
    "seq_length": "max_seq_length",
    "train_iters": "max_steps",
    "steps": "max_steps",
    "warmup": "warmup_ratio",
    "micro_batch_size": "per_device_train_batch_size",
    "clip_grad": "max_grad_norm",
    "adam_eps": "adam_epsilon",
    "log_interval": "logging_steps",
    "logging_freq": "logging_steps",
    "eval_interval": "eval_steps",
    "save_interval": "save_steps",
    "save": "output_dir",
    "load": "model_name_or_path",
    "init_from_ckpt": "model_name_or_path",
    "train_data": "train_file",
    "input_dir": "train_dir",
    "mem_length": "mem_len",
    "tokenizer_path": "tokenizer_name",
    "tokenizer_model_type": "tokenizer_name",
    "deepspeed_config": "deepspeed",
    "distributed_backend": "ddp_backend",
    "checkpoint_activations": "gradient_checkpointing",
    "deepspeed_activation_checkpointing": "gradient_checkpointing",
    "use_recompute": "gradient_checkpointing",
    "use_amp": "fp16",
    "num_workers": "dataloader_num_workers",
    "logger": "report_to",
    "mask_prob": "mlm_probability",
    "masked_lm_prob": "mlm_probability",
    "electra_mask_style": "mask_style",
    "length": "max_new_tokens",
    "k": "top_k",
    "p": "top_p",
    "prefix": "source_prefix",
    "padding_text": "source_prefix",
    "out_seq_length": "max_length",
    "input_source": "input_file",
    "output_path": "output_file",
    "source_lang": "source_column",
    "target_lang": "target_column",
    "text_column": "source_column",
    "summary_column": "target_column",
    "max_target_length": "max_new_tokens",
    "val_max_target_length": "max_new_tokens",
}
# What they ask for is done anyway, or changes nothing here.
_ANYWAY = """
    overwrite_cache preprocessing_num_workers pad_to_max_length low_cpu_mem_usage keep_linebreaks
    use_fast_tokenizer use_slow_tokenizer streaming scale_loss to_static fuse_transformer resume_dataloader
    transformer_xl xl_dataset lazy_loader fast_head jit eager_run tokenizer_type checkpoint_num_layers
    sample_one_document loader_scatter no_lazy_loader
"""
_PREPARE = "prepare a corpus with run_chinese_ref.py or data/create_data.py and name its folder with --train_dir"
_SHAPE = "a new model's shape is --config_overrides num_hidden_layers=..,hidden_size=..,num_attention_heads=.."
_ANSWERED = {
    "dataset_name": "data/create_data.py --dataset_name makes a corpus of it; name its folder with --train_dir",
    "dataset_config_name": "data/create_data.py --dataset_name makes a corpus of it; name its folder with --train_dir",
    "datas": _PREPARE,
    "train_file": _PREPARE,
    "train_ref_file": "run_chinese_ref.py writes words and text into one corpus; name its folder with --train_dir",
    "validation_ref_file": "run_chinese_ref.py writes words and text into one corpus; name it with --validation_dir",
    "validation_file": "prepare it as the training text and name its folder with --validation_dir",
    "line_by_line": "it is decided when a corpus is made: data/create_data.py --line_by_line true",
    "text_column": "it is decided when a corpus is made: data/create_data.py --text_column",
    "max_train_samples": "cut the training file, or stop with --max_steps",
    "max_eval_samples": "cut the held-out file, or take a smaller --validation_split",
    "max_predictions_per_seq": "--mlm_probability says how many tokens are labelled, without a most",
    "cache_dir": "HF_HOME in the environment says where downloads lie",
    "model_revision": "--model_name_or_path takes the folder of a revision",
    "token": "log in with hf auth login",
    "use_auth_token": "log in with hf auth login",
    "with_tracking": "--report_to names integrations",
    "num_layers": _SHAPE,
    "hidden_size": _SHAPE,
    "num_attention_heads": _SHAPE,
    "max_position_embeddings": _SHAPE,
    "hidden_dropout": "--config_overrides hidden_dropout=..",
    "attention_dropout": "--config_overrides attention_dropout=..",
    "split": "--validation_split 0.01 holds out a share",
    "eval_iters": "the whole held-out text is measured",
    "lr_decay_style": "--lr_scheduler_type, or one of --schedule",
    "lr_decay_iters": "a schedule ends with --max_steps",
    "lr_decay_ratio": "--schedule cosine_to_floor with --schedule_floor",
    "no_load_optim": "--model_name_or_path takes weights alone",
    "no_load_lr_scheduler": "--model_name_or_path takes weights alone",
    "finetune": "--model_name_or_path takes weights alone",
    "no_tracking": "--report_to none",
    "num_return_sequences": "ask again with another --seed",
    "stop_token": "a text ends with the model's end token",
    "xlm_language": "no model with languages as embeddings is read",
    "length_penalty": "--num_beams searches without one",
    "model_parallel_size": "torchrun --nproc-per-node 2 spreads the model over two processes",
    "model_name_or_path": "MODEL is the first word of the command",
    "load": "MODEL is the first word of the command",
    "model_type": "the config of MODEL says it; leave it out",
    "mem_length": "--attention_window says how far back a Transformer-XL sees",
}
_PRECISIONS = {
    "fp16": "--fp16 true --bf16 false",
    "bf16": "--fp16 false --bf16 true",
    "fp32": "--fp16 false --bf16 false",
    "auto": "",
}
_LONG = {"float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float32": "fp32", "float": "fp32"}


def _percentage(value: str) -> list[str]:
    try:
        return ["--validation_split", str(float(value) / 100)]
    except ValueError:
        raise ValueError("a number") from None


def _precision(value: str) -> list[str]:
    """Of training, whose weights are kept in fp32."""
    name = _LONG.get(value.lower(), value.lower())
    if name not in _PRECISIONS:
        raise ValueError(f"one of {', '.join(_PRECISIONS)}")
    return _PRECISIONS[name].split()


def _dtype(value: str) -> list[str]:
    """Of generation, which says it as torch does."""
    return ["--dtype", {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32"}.get(value, value)]


def _half(dtype: str) -> Callable[[str], list[str]]:
    """A switch that is --dtype in generation, where MODEL may be the word behind it."""

    def rewrite(value: str) -> list[str]:
        if value.lower() in FALSE:
            return []
        return ["--dtype", dtype, *([] if value.lower() in TRUE else [value])]

    return rewrite


def _device(otherwise: str) -> Callable[[str], list[str]]:
    """A device's name -> --use_cpu, or words for an accelerator."""

    def rewrite(value: str) -> list[str]:
        kind = value.lower().partition(":")[0]
        if kind not in ("cpu", "gpu", "cuda"):
            raise ValueError("cpu or gpu")
        return ["--use_cpu"] if kind == "cpu" else otherwise.split()

    return rewrite


def _betas(value: str) -> list[str]:
    first, comma, second = value.partition(",")
    if not comma:
        raise ValueError("two numbers with a comma between")
    return ["--adam_beta1", first, "--adam_beta2", second]


def _optimizer(value: str) -> list[str]:
    """run_glue.py's names, some of which are two flags here."""
    known = {"adafactor": "--optim adafactor", "adamw_nobc": "--adam_bias_correction false"}
    return known.get(value, f"--optimizer {value}").split()


def _lr_scheduler_type(value: str) -> list[str]:
    return ["--schedule" if value in SCHEDULES else "--lr_scheduler_type", value]


TRAINING = Foreign(
    rewritten={
        "validation_split_percentage": _percentage,
        "checkpointing_steps": lambda value: (
            ["--save_strategy", "epoch"] if value == "epoch" else ["--save_steps", value]
        ),
        "dtype": _precision,
        "torch_dtype": _precision,
        "device": _device("--use_cpu false"),
        "betas": _betas,
        "optimizer": _optimizer,
        "adafactor": switch("--optim adafactor"),
        "lr_scheduler_type": _lr_scheduler_type,
    },
    renamed=_RENAMED,
    anyway=_ANYWAY.split(),
    answered=_ANSWERED,
)
GENERATION = Foreign(
    rewritten={"dtype": _dtype, "torch_dtype": _dtype, "fp16": _half("float16"), "bf16": _half("bfloat16")}
    | {"device": _device("")},
    renamed=_RENAMED,
    anyway=_ANYWAY.split(),
    answered=_ANSWERED,
)
