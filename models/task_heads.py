"""Heads for five kinds of task on any encoder: the encoder family's own class, or dropout and one linear layer.

The linear head is that of google-research/electra (Clark et al. 2020): dropout, then a Glorot-uniform projection with
zero bias, of the first token's last hidden state, of all tokens' mean or maximum, or of every token's. It serves
families whose classes lack a head of some kind, too. Letters: B batch, C choices or labels, T tokens, H hidden_size.
"""

import copy
import inspect

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import logging

from .base import StrictPreTrainedModel, check_choice
from .post_norm import quicken

HEAD_CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "multiple_choice": AutoModelForMultipleChoice,
    "question_answering": AutoModelForQuestionAnswering,
    "tagging": AutoModelForTokenClassification,
}
HEADS = ("auto", "linear")
POOLINGS = ("first", "mean", "max")


class LinearHeadConfig(PreTrainedConfig):
    """An encoder's config, and of the head on it the dropout and what of a sequence it reads, one of POOLINGS."""

    model_type = "linear_head"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012  a ClassVar would not be found by transformers

    encoder: PreTrainedConfig | dict | None = None
    classifier_dropout: float | int = 0.1
    pooling: str = "first"

    def __post_init__(self, **kwargs):
        check_choice("pooling", self.pooling, POOLINGS)
        if isinstance(self.encoder, dict):
            fields = dict(self.encoder)
            self.encoder = AutoConfig.for_model(fields.pop("model_type"), **fields)
        super().__post_init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return self.encoder.vocab_size


class LinearHeadPreTrainedModel(StrictPreTrainedModel):
    """encoder, dropout, classifier; `outputs` says how many numbers the classifier gives, None for num_labels."""

    family = "LinearHead"
    config_class = LinearHeadConfig
    base_model_prefix = "encoder"
    outputs: int | None = None
    _supports_sdpa = True

    def __init__(self, config: LinearHeadConfig):
        super().__init__(config)
        self.encoder = bare_encoder(config.encoder)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.encoder.hidden_size, self.outputs or config.num_labels)
        self.post_init()

    def _init_weights(self, module):
        if module is self.classifier:
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        else:
            self.encoder._init_weights(module)

    def scores(self, input_ids, attention_mask, token_type_ids, pooled: bool) -> torch.Tensor:
        """ids [B, T] -> [B, outputs] of the sequence, or [B, T, outputs] of its tokens."""
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        hidden = self.encoder(input_ids, **{name: value for name, value in given.items() if value is not None})[0]
        return self.classifier(self.dropout(self.pool(hidden, attention_mask) if pooled else hidden))

    def pool(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """hidden [B, T, H] -> [B, H], of the real tokens."""
        if self.config.pooling == "first":
            return hidden[:, 0]
        real = torch.ones_like(hidden[..., :1]) if attention_mask is None else attention_mask.unsqueeze(-1)
        if self.config.pooling == "mean":
            return (hidden * real).sum(1) / real.sum(1)
        return hidden.masked_fill(real == 0, -torch.inf).amax(1)


class LinearHeadForSequenceClassification(LinearHeadPreTrainedModel):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> SequenceClassifierOutput:
        """Inputs [B, T]; logits [B, C]."""
        return SequenceClassifierOutput(logits=self.scores(input_ids, attention_mask, token_type_ids, pooled=True))


class LinearHeadForMultipleChoice(LinearHeadPreTrainedModel):
    outputs = 1

    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> MultipleChoiceModelOutput:
        """Inputs [B, C, T]; logits [B, C]."""
        inputs = (input_ids, attention_mask, token_type_ids)
        flat = [None if tensor is None else tensor.flatten(0, 1) for tensor in inputs]
        return MultipleChoiceModelOutput(logits=self.scores(*flat, pooled=True).view(input_ids.shape[:2]))


class LinearHeadForTokenClassification(LinearHeadPreTrainedModel):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> TokenClassifierOutput:
        """Inputs [B, T]; logits [B, T, C]."""
        return TokenClassifierOutput(logits=self.scores(input_ids, attention_mask, token_type_ids, pooled=False))


class LinearHeadForQuestionAnswering(LinearHeadPreTrainedModel):
    outputs = 2

    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> QuestionAnsweringModelOutput:
        """Inputs [B, T]; start and end logits [B, T]."""
        start, end = self.scores(input_ids, attention_mask, token_type_ids, pooled=False).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def bare_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A new encoder without the pooler that some families put on top, which would have no gradient."""
    model_class = AutoModel._model_mapping[type(config)]
    pooled = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return AutoModel.from_config(config, **({"add_pooling_layer": False} if pooled else {}))


def new_task_model(
    config: PreTrainedConfig,
    kind: str,
    labels: tuple[str, ...],
    head: str = "auto",
    dropout: float | None = None,
    pooling: str = "first",
) -> PreTrainedModel:
    """A new model of that kind on an encoder of this config; all its weights are random.

    config: of the encoder, with or without a head; whatever it says of labels and of the kind of problem is replaced.
    labels: names of the outputs, for classification and tagging. head: auto takes the family's own class if there is
    one (and the linear head where config has one), linear always the linear head. dropout: for every dropout of
    encoder and head. pooling: what the linear head reads of a sequence; another than "first" means that head.

    Raises:
        ValueError: no such head, or a config whose encoder cannot be built.
    """
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}; correct it")
    if pooling != "first" and kind in ("question_answering", "tagging"):
        raise ValueError(f"pooling must be first for a task of {kind}, whose head reads every token, got {pooling}")
    config, auto_class = copy.deepcopy(config), HEAD_CLASSES[kind]
    encoder = encoder_config(config)
    if dropout is not None:
        set_dropout(encoder, dropout)
    own = type(encoder) in auto_class._model_mapping and config is encoder
    if head == "linear" or pooling != "first" or not own:
        if type(encoder) not in AutoModel._model_mapping:
            raise ValueError(f"model_type {encoder.model_type} must be that of an encoder; name another one")
        config = LinearHeadConfig(encoder=encoder, classifier_dropout=_head_dropout(encoder), pooling=pooling)
    if kind == "multiple_choice" and not hasattr(config, "summary_type"):
        config.summary_type = "first"  # RoFormer's own default is the last token, which may be padding
    config.num_labels = {"regression": 1, "multiple_choice": 1, "question_answering": 2}.get(kind, len(labels))
    if kind in ("classification", "tagging"):
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
    problems = {"classification": "single_label_classification", "regression": "regression"}
    config.problem_type = problems.get(kind)
    return auto_class.from_config(config, dtype=torch.float32)


def task_model(
    config: PreTrainedConfig, folder: str | None, kind: str, labels: tuple[str, ...], **options
) -> PreTrainedModel:
    """A model with a fresh head on the encoder in a folder or hub name, None for random weights.

    options: head, dropout and pooling of new_task_model.

    On a CPU, layers that have a quick form train in it. ValueError as of new_task_model and load_encoder.
    """
    model = new_task_model(config, kind, labels, **options)
    if folder is not None:
        load_encoder(model, folder)
    return quicken(model)


def has_head(config: PreTrainedConfig, kind: str) -> bool:
    """Whether the model that this config was saved with has a head for that kind of task."""
    mapping = HEAD_CLASSES[kind]._model_mapping
    return type(config) in mapping and mapping[type(config)].__name__ in (config.architectures or ())


def encoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of the encoder under whatever head this config is of."""
    return config.encoder if isinstance(config, LinearHeadConfig) else config


def set_dropout(config: PreTrainedConfig, probability: float) -> None:
    """Give every dropout of the config this probability, except a name for 'as another one' (None)."""
    for name, value in vars(config).items():
        if "dropout" in name and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, name, probability)


def _head_dropout(config: PreTrainedConfig) -> float:
    found = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout_prob", "dropout"))
    return next((value for value in found if value is not None), 0.1)


def load_encoder(model: PreTrainedModel, folder: str) -> None:
    """Give the model's encoder the tensors of the encoder in a folder or hub name; the head stays as it is.

    The folder may hold an encoder alone or with any head, one of LinearHead's too.

    Raises:
        ValueError: a tensor is missing (a pooler may be) or has another shape.
    """
    encoder = model.base_model
    written, _ = PreTrainedConfig.get_config_dict(folder)
    options = {"key_mapping": {r"^encoder\.": ""}} if written.get("model_type") == LinearHeadConfig.model_type else {}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # told below, in one line
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        loaded, info = type(encoder).from_pretrained(folder, config=encoder.config, dtype=torch.float32, **options)
    finally:
        logging.set_verbosity(level)
    absent = set(info["missing_keys"])
    problems = sorted(name for name in absent if "pooler" not in name)
    problems += sorted(str(found[0]) for found in info["mismatched_keys"])
    if problems:
        raise ValueError(
            f"{folder} must hold all tensors of {type(encoder).__name__}, got one without {problems[0]} in its shape; "
            "name a folder of that kind"
        )
    own = encoder.state_dict()
    found = {name: tensor for name, tensor in loaded.state_dict().items() if name in own and name not in absent}
    encoder.load_state_dict(own | found)


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether the encoder tells the segments of a pair apart, and was pretrained to.

    Not so: no such argument, a table of one row (RoBERTa), and this repository's own encoders, which masked
    language modelling showed one segment only.
    """
    encoder = model.base_model
    accepted = "token_type_ids" in inspect.signature(encoder.forward).parameters
    own = isinstance(encoder, StrictPreTrainedModel)
    return accepted and getattr(encoder.config, "type_vocab_size", 0) > 1 and not own
