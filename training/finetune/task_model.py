"""The model of a finetuning job: a fresh head on an encoder to train, or a finetuned model to judge."""

import logging
from pathlib import Path

from transformers import AutoModel

from common.errors import ArgumentError, library_errors
from training.finetune.label_names import label_numbers
from training.model_setup import check_fits, check_vocabulary, check_weights, load_model
from training.pretrained import load_config, load_tokenizer, resolve_pretrained

logger = logging.getLogger(__name__)


def output_names(settings, name: str, kind: str, heads) -> tuple[str, ...] | None:
    """Names of the outputs of a finetuned model for that kind of task, None of a model without the head.

    settings, name, heads: as for make_task_model.
    """
    config = load_config(_model_folder(name), "--model", settings.trust_remote_code)
    if kind not in heads.HEAD_CLASSES or not heads.has_head(config, kind):
        return None
    if settings.label_order is not None:
        return tuple(label.strip() for label in settings.label_order.split(","))
    _check_names(config, name)
    return tuple(config.id2label[number] for number in sorted(config.id2label))


def _check_names(config, name: str) -> None:
    """ArgumentError unless the config names each of its outputs."""
    names = config.id2label
    if sorted(names) != list(range(len(names))) or not all(isinstance(label, str) for label in names.values()):
        raise ArgumentError(
            f"--model {name} must have id2label from 0, 1, ... to names in its config.json, got {str(names)[:80]}; "
            "correct it"
        )


def _model_folder(name: str) -> str:
    """Of a run of run_electra.py, its discriminator."""
    return str(Path(name, "discriminator")) if Path(name, "discriminator").is_dir() else name


def make_task_model(task, settings, name: str, plan, heads) -> tuple:
    """Tokenizer, model, and the model's output of each of the task's labels.

    task: of data/tasks/table.py; settings: JobArguments; name: folder or hub name, or one of run_electra.py, whose
    discriminator is taken; plan: of data/tasks/plan.py; heads: models.task_heads. Without training, a model that lacks
    the head gets a random one and a warning where it is only to be scored, unless --do_eval asks for its own.

    Raises:
        ArgumentError: no such model, another architecture or vocabulary than wanted, labels of another task, nothing
            but predictions wanted of a model without the head.
    """
    name = _model_folder(name)
    trust, tokenizer_flag = settings.trust_remote_code, "--tokenizer" if settings.tokenizer else "--model"
    tokenizer = load_tokenizer(settings.tokenizer or name, tokenizer_flag, trust)
    config = load_config(name, "--model", trust)
    found = heads.encoder_config(config).model_type
    if settings.arch not in (None, found):
        raise ArgumentError(f"--arch must be {found}, that of --model {name}, got {settings.arch}; leave it out")
    worthless = not plan.scored and task.columns  # what a random head would predict of the user's own rows
    if not plan.training and (settings.do_eval or worthless or heads.has_head(config, task.kind)):
        return tokenizer, *_finetuned(task, settings, name, config, tokenizer, heads)
    check_vocabulary(config, name, "--model", tokenizer)
    encoder = heads.encoder_config(config)
    if settings.random_init:
        folder, files = None, "config.json"
        check_fits(AutoModel, encoder, f"--model {name}", trust)
    else:
        folder, files = resolve_pretrained(name, "--model"), check_weights(AutoModel, encoder, name, "--model", trust)
    expected = f"--model {name} must hold an encoder for a task of {task.kind} in config.json and {files}"
    with library_errors(ArgumentError, expected, "name another folder"):
        options = {"head": settings.head, "dropout": settings.dropout, "pooling": settings.pooling}
        model = heads.task_model(config, folder, task.kind, task.labels, **options)
    if not plan.training:
        logger.warning("%s has no head for %s: the scores are those of a random one", name, task.name)
    return tokenizer, model, {label: number for number, label in enumerate(task.labels)}


def _finetuned(task, settings, name: str, config, tokenizer, heads) -> tuple:
    if not heads.has_head(config, task.kind):
        raise ArgumentError(
            f"--model {name} must have a head for a task of {task.kind} under --do_eval or to predict only, got "
            f"{', '.join(config.architectures or ['no architecture'])}; train it first, with training rows"
        )
    _check_names(config, name)
    if task.kind == "regression" and config.num_labels != 1:
        raise ArgumentError(f"--model {name} must have one output for {task.name}, got {config.num_labels}; train it")
    auto_class, trust = heads.HEAD_CLASSES[task.kind], settings.trust_remote_code
    model = load_model(auto_class, config, name, "--model", tokenizer, trust)
    if not task.labels:
        return model, {}
    return model, label_numbers(task.labels, model.config.id2label, settings.label_order, name)
