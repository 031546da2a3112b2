"""The model of a finetuning job, a fresh head to train or a finetuned model, and what it says of rows."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object, send_to_device
from torch.utils.data import Dataset
from transformers import AutoModel

from common.errors import ArgumentError, library_errors
from training.model_setup import check_fits, check_trainable, check_vocabulary, check_weights, load_model
from training.pretrained import load_config, load_tokenizer, resolve_pretrained
from training.sharing.adapters import add_adapters

logger = logging.getLogger(__name__)

_NAMELESS = re.compile(r"label_\d+")

MODEL_FLAG = "--model_name_or_path"  # after which a model is typed


@dataclass(frozen=True)
class TaskModel:
    """A model with its tokenizer. label_ids: the model's output of each of the task's labels."""

    tokenizer: object
    model: torch.nn.Module
    label_ids: Mapping[str, int]


def output_names(settings, name: str, kind: str, heads) -> tuple[str, ...] | None:
    """Names of the outputs of a finetuned model for that kind of task, None of a model without the head.

    settings, name, heads: as for make_task_model.
    """
    config = load_config(_model_folder(name), MODEL_FLAG, settings.trust_remote_code)
    if kind not in heads.HEAD_CLASSES or not heads.has_head(config, kind):
        return None
    if settings.label_order is not None:
        return tuple(label.strip() for label in settings.label_order.split(","))
    _check_names(config, name)
    return tuple(config.id2label[index] for index in sorted(config.id2label))


def _check_names(config, name: str) -> None:
    """ArgumentError unless the config names each of its outputs."""
    names = config.id2label
    if sorted(names) != list(range(len(names))) or not all(isinstance(label, str) for label in names.values()):
        raise ArgumentError(
            f"{MODEL_FLAG} {name} must have id2label from 0, 1, ... to names in its config.json, got "
            f"{str(names)[:80]}; correct it"
        )


def _model_folder(name: str) -> str:
    """Of a run of run_electra.py, its discriminator."""
    return str(Path(name, "discriminator")) if Path(name, "discriminator").is_dir() else name


def make_task_model(task, settings, name: str, plan, heads) -> TaskModel:
    """The model that a job trains or scores.

    task: of data/tasks/table.py; settings: JobArguments; name: folder or hub name, or one of run_electra.py, whose
    discriminator is taken; plan: of data/tasks/plan.py; heads: models.task_heads. Without training, a model that lacks
    the head gets a random one and a warning where it is only to be scored, unless --do_eval asks for its own.

    Raises:
        ArgumentError: no such model, another architecture or vocabulary than wanted, labels of another task, nothing
            but predictions wanted of a model without the head.
    """
    name = _model_folder(name)
    trust, tokenizer_flag = (
        settings.trust_remote_code,
        "--tokenizer_name" if settings.tokenizer else MODEL_FLAG,
    )
    tokenizer = load_tokenizer(settings.tokenizer or name, tokenizer_flag, trust)
    config = load_config(name, MODEL_FLAG, trust)
    family = heads.encoder_config(config).model_type
    if settings.arch not in (None, family):
        raise ArgumentError(
            f"--model_type must be {family}, that of {MODEL_FLAG} {name}, got {settings.arch}; leave it out"
        )
    worthless = not plan.scored and task.columns  # what a random head would predict of the user's own rows
    if not plan.training and (settings.do_eval or worthless or heads.has_head(config, task.kind)):
        return _finetuned(task, settings, name, config, tokenizer, heads)
    if plan.training:
        check_trainable(config, name)
    check_vocabulary(config, name, MODEL_FLAG, tokenizer)
    encoder = heads.encoder_config(config)
    if settings.random_init:
        folder, files = None, "config.json"
        check_fits(AutoModel, encoder, f"{MODEL_FLAG} {name}", trust)
    else:
        folder, files = (
            resolve_pretrained(name, MODEL_FLAG),
            check_weights(AutoModel, encoder, name, MODEL_FLAG, trust),
        )
    expected = f"{MODEL_FLAG} {name} must hold an encoder for a task of {task.kind} in config.json and {files}"
    with library_errors(ArgumentError, expected, "name another folder"):
        options = {"head": settings.head, "dropout": settings.dropout, "pooling": settings.pooling}
        model = heads.task_model(config, folder, task.kind, task.labels, **options)
    if settings.lora:
        add_adapters(model, settings.lora, new_head=True)
    if not plan.training:
        logger.warning("%s has no head for %s: the scores are those of a random one", name, task.name)
    return TaskModel(tokenizer, model, {label: index for index, label in enumerate(task.labels)})


def _finetuned(task, settings, name: str, config, tokenizer, heads) -> TaskModel:
    if not heads.has_head(config, task.kind):
        raise ArgumentError(
            f"{MODEL_FLAG} {name} must have a head for a task of {task.kind} under --do_eval or to predict only, got "
            f"{', '.join(config.architectures or ['no architecture'])}; train it first, with training rows"
        )
    _check_names(config, name)
    if task.kind == "regression" and config.num_labels != 1:
        raise ArgumentError(
            f"{MODEL_FLAG} {name} must have one output for {task.name}, got {config.num_labels}; train it"
        )
    auto_class, trust = heads.HEAD_CLASSES[task.kind], settings.trust_remote_code
    model = load_model(auto_class, config, name, MODEL_FLAG, tokenizer, trust)
    names, order = model.config.id2label, settings.label_order
    return TaskModel(tokenizer, model, match_labels(task.labels, names, order, name) if task.labels else {})


def match_labels(labels: tuple[str, ...], id2label: dict[int, str], order: str | None, name: str) -> dict[str, int]:
    """Output of each of the task's labels, compared without regard to case.

    id2label: of the model's config; order: --label_order, names of the outputs in place of id2label's; name: of the
    model, as typed.

    Raises:
        ArgumentError: the model's labels are not the task's, or it has numbers for names and there is no order.
    """
    if order is not None:
        flag, names = f"--label_order {order}", [label.strip() for label in order.split(",")]
        if len(names) != len(id2label):
            raise ArgumentError(
                f"{flag} must name each of the {len(id2label)} outputs of {name}, got {len(names)} names; add the rest"
            )
    else:
        flag, names = f"{MODEL_FLAG} {name}", [id2label[index] for index in range(len(id2label))]
        if all(_NAMELESS.fullmatch(label.lower()) for label in names) and set(names) != set(labels):
            raise ArgumentError(
                f"{flag} must name its labels, got {names[0]} to {names[-1]}, which say nothing; give their names in "
                f"the order of its outputs with --label_order {','.join(labels)}"
            )
    outputs = {label.lower(): index for index, label in enumerate(names)}
    if outputs.keys() != {label.lower() for label in labels} or len(outputs) < len(names):
        raise ArgumentError(
            f"{flag} must have the labels {', '.join(labels)}, got {', '.join(names)}; name a model of this task, "
            "or add --do_train to give it another head"
        )
    return {label: outputs[label.lower()] for label in labels}


@dataclass(frozen=True)
class EvalRows:
    """Rows to predict.

    dataset: by pairs of an epoch and an index. batches: this process's share, lists of such pairs. collator: of rows.
    """

    dataset: Dataset
    batches: Iterable[list[tuple[int, int]]]
    collator: Callable[[list[dict]], dict[str, torch.Tensor]]


def run_model(trainer, data: EvalRows) -> tuple[list[int], list[torch.Tensor], torch.Tensor]:
    """This process's part of `predict`, without a wait for the device: indices, scores by batch, loss and count [2].

    The scores are on the host once the sums [2], fp64 on the device, have been read.
    """
    objective, model, args = trainer.objective, trainer.model, trainer.args
    scores, sums = [], torch.zeros(2, dtype=torch.float64, device=args.device)
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        for inputs in trainer.loader(data.dataset, data.batches, data.collator, args.eval_workers):
            inputs = send_to_device(inputs, args.device, non_blocking=True)
            outputs = objective.scores(model, inputs)
            if "labels" in inputs or "start_positions" in inputs:
                sums += torch.stack((objective.loss(outputs, inputs).double(), objective.count(inputs).double()))
            scores.append(outputs.to("cpu", non_blocking=True))
    return [index for batch in data.batches for _, index in batch], scores, sums


def predict(trainer, data: EvalRows) -> tuple[list[int], list[np.ndarray], float | None]:
    """Run the model of a trainer over rows, without dropout.

    Every process returns the same: indices of the rows in any order, the fp32 scores of each as the objective gives
    them (padding included), and the mean loss of the targets, None where a row has none.
    """
    indices, batches, sums = run_model(trainer, data)
    loss, count = sums.tolist()  # waits for the device, and so for the copies of the scores
    scores = [row for batch in batches for row in batch.numpy()]
    if trainer.args.world_size > 1:
        indices, scores = gather_object(indices), gather_object(scores)
        loss, count = (sum(gather_object([value])) for value in (loss, count))
    return indices, scores, loss / count if count else None


class Evaluator:
    """Scores the predictions for some splits; the evaluator of a Trainer.

    splits: rows by name, and what turns their indices and scores into a verdict, which has `scores` (metrics by name,
    None without labels). merge: scores by split -> metrics of all of them.
    """

    def __init__(self, splits: Mapping[str, tuple[EvalRows, Callable]], merge: Callable):
        self.splits, self.merge = splits, merge
        self.verdicts: dict = {}  # of the last call

    def __call__(self, trainer) -> dict[str, float]:
        """Metrics, and the mean of the splits' losses where they have one; {} without labels."""
        self.verdicts, losses = {}, []
        for name, (data, scorer) in self.splits.items():
            indices, scores, loss = predict(trainer, data)
            self.verdicts[name] = scorer(indices, scores)
            losses += [] if loss is None else [loss]
        scored = {name: verdict.scores for name, verdict in self.verdicts.items() if verdict.scores is not None}
        return ({"loss": float(np.mean(losses))} if losses else {}) | (self.merge(scored) if scored else {})
