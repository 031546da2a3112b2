"""Heads for six kinds of task on any encoder: the encoder family's own class, or dropout and one linear layer.

The linear head is that of google-research/electra (Clark et al. 2020): dropout, then a Glorot-uniform projection with
zero bias, of the first token's last hidden state, of all tokens' mean or maximum, or of every token's. It serves
families whose classes lack a head of some kind, too. Letters: B batch, C choices or labels, T tokens, H hidden_size.
"""

import copy
import inspect

import torch
from torch import nn
from transformers import (
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
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
    BaseModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .base import StrictPreTrainedModel, check_choice, check_range, nested_config
from .flash import FLASHConfig, FLASHModel
from .flash_quad import FLASHQuadConfig, FLASHQuadModel
from .gau import GAUAlphaConfig, GAUAlphaModel
from .heads import classification_loss, span_loss, token_loss
from .post_norm import use_fast_layers

HEAD_CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "multi_label": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "multiple_choice": AutoModelForMultipleChoice,
    "question_answering": AutoModelForQuestionAnswering,
    "tagging": AutoModelForTokenClassification,
}
HEAD_MAPPINGS = {  # config class -> model class, those that this repository registers included
    AutoModelForSequenceClassification: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForMultipleChoice: MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    AutoModelForQuestionAnswering: MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    AutoModelForTokenClassification: MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
}
_PROBLEMS = {  # problem_type of transformers' configs
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
HEADS = ("auto", "linear")
POOLINGS = ("first", "mean", "max")
# This repository's own encoders, which transformers does not know where a saved folder alone is at hand.
_OWN_MODELS = {GAUAlphaConfig: GAUAlphaModel, FLASHQuadConfig: FLASHQuadModel, FLASHConfig: FLASHModel}
_OWN_CONFIGS = {config.model_type: config for config in _OWN_MODELS}


class LinearHeadConfig(PreTrainedConfig):
    """An encoder's config, and of the head on it the dropout and what of a sequence it reads, one of POOLINGS."""

    model_type = "linear_head"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012  a ClassVar would not be found by transformers

    encoder: PreTrainedConfig | dict | None = None
    classifier_dropout: float | int = 0.1
    pooling: str = "first"

    def __post_init__(self, **kwargs):
        check_choice("pooling", self.pooling, POOLINGS)
        check_range(self, 0, 1, "classifier_dropout")
        if isinstance(self.encoder, dict):
            self.encoder = nested_config("encoder", self.encoder, _OWN_CONFIGS)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        if not isinstance(config_dict.get("encoder"), dict):
            raise ValueError(f"config field encoder must be a config, got {config_dict.get('encoder')!r}; correct it")
        return super().from_dict(config_dict, **kwargs)

    @property
    def vocab_size(self) -> int:
        return self.encoder.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.encoder.hidden_size


class LinearHeadPreTrainedModel(StrictPreTrainedModel):
    """encoder, dropout, classifier; `outputs` says how many numbers the classifier gives, None for num_labels.

    outputs 0 leaves dropout and classifier out.
    """

    family = "LinearHead"
    config_class = LinearHeadConfig
    base_model_prefix = "encoder"
    outputs: int | None = None

    def __init__(self, config: LinearHeadConfig):
        super().__init__(config)
        self.encoder = bare_encoder(config.encoder)
        if self.outputs != 0:
            self.dropout = nn.Dropout(config.classifier_dropout)
            self.classifier = nn.Linear(config.hidden_size, self.outputs or config.num_labels)
        self.post_init()

    def _init_weights(self, module):
        if module is getattr(self, "classifier", None):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        else:
            self.encoder._init_weights(module)

    def encode(self, output_attentions, output_hidden_states, **inputs) -> BaseModelOutput:
        """What the encoder says of ids [B, T]."""
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        asked = {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}
        # Not every encoder has every argument: what is None or False is left out.
        inputs = {name: value for name, value in (inputs | asked).items() if value is not None and value is not False}
        return self.encoder(**inputs, return_dict=True)

    def scores(self, pooled: bool, attention_mask, output_attentions, output_hidden_states, **inputs):
        """ids [B, T] -> [B, outputs] of the sequence, or [B, T, outputs] of its tokens; and what goes beside them."""
        inputs |= {"attention_mask": attention_mask}
        outputs = self.encode(output_attentions, output_hidden_states, **inputs)
        hidden = outputs.last_hidden_state
        scores = self.classifier(self.dropout(self.pool(hidden, attention_mask) if pooled else hidden))
        return scores, {"hidden_states": outputs.get("hidden_states"), "attentions": outputs.get("attentions")}

    def pool(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """hidden [B, T, H] -> [B, H], of the real tokens."""
        if self.config.pooling == "first":
            return hidden[:, 0]
        real = torch.ones_like(hidden[..., :1]) if attention_mask is None else attention_mask.unsqueeze(-1)
        if self.config.pooling == "mean":
            return (hidden * real).sum(1) / real.sum(1)
        return hidden.masked_fill(real == 0, -torch.inf).amax(1)


class LinearHeadModel(LinearHeadPreTrainedModel):
    """The encoder alone, which is what AutoModel makes of the folder of any head."""

    outputs = 0

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Inputs [B, T]; last_hidden_state [B, T, H]."""
        return self.encode(
            output_attentions,
            output_hidden_states,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )


class LinearHeadForSequenceClassification(LinearHeadPreTrainedModel):
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Inputs [B, T]; labels as in heads.py; logits [B, C]."""
        scores, others = self.scores(
            True,
            attention_mask,
            output_attentions,
            output_hidden_states,
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )
        loss = None if labels is None else classification_loss(scores, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=scores, **others)


class LinearHeadForMultipleChoice(LinearHeadPreTrainedModel):
    outputs = 1

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultipleChoiceModelOutput:
        """Inputs [B, C, T]; labels [B] int64, the right choice; logits [B, C]."""
        choices = (input_ids if input_ids is not None else inputs_embeds).shape[1]
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        flat = [None if tensor is None else tensor.flatten(0, 1) for tensor in inputs]
        scores, others = self.scores(
            True,
            flat[1],
            output_attentions,
            output_hidden_states,
            input_ids=flat[0],
            token_type_ids=flat[2],
            position_ids=flat[3],
            inputs_embeds=flat[4],
        )
        scores = scores.view(-1, choices)
        return MultipleChoiceModelOutput(
            loss=None if labels is None else token_loss(scores, labels), logits=scores, **others
        )


class LinearHeadForTokenClassification(LinearHeadPreTrainedModel):
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput:
        """Inputs [B, T]; labels [B, T] int64, -100 where nothing is asked; logits [B, T, C]."""
        scores, others = self.scores(
            False,
            attention_mask,
            output_attentions,
            output_hidden_states,
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )
        loss = None if labels is None else token_loss(scores, labels)
        return TokenClassifierOutput(loss=loss, logits=scores, **others)


class LinearHeadForQuestionAnswering(LinearHeadPreTrainedModel):
    outputs = 2

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Inputs [B, T]; positions [B] int64, outside the row ignored; start and end logits [B, T]."""
        scores, others = self.scores(
            False,
            attention_mask,
            output_attentions,
            output_hidden_states,
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )
        start, end = scores.unbind(-1)
        loss = span_loss(start, end, start_positions, end_positions)
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end, **others)


def bare_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A new encoder without the pooler that some families put on top, which would have no gradient."""
    if type(config) in _OWN_MODELS:
        return _OWN_MODELS[type(config)](config)
    model_class = MODEL_MAPPING[type(config)]
    pooled = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    options = {"add_pooling_layer": False} if pooled else {}
    return AutoModel.from_config(config, trust_remote_code=False, **options)


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
    own = type(encoder) in HEAD_MAPPINGS[auto_class] and config is encoder
    if head == "linear" or pooling != "first" or not own:
        if type(encoder) not in MODEL_MAPPING:
            raise ValueError(f"model_type {encoder.model_type} must be that of an encoder; name another one")
        config = LinearHeadConfig(encoder=encoder, classifier_dropout=_head_dropout(encoder), pooling=pooling)
    if kind == "multiple_choice" and not hasattr(config, "summary_type"):
        config.summary_type = "first"  # RoFormer's own default is the last token, which may be padding
    config.num_labels = {"regression": 1, "multiple_choice": 1, "question_answering": 2}.get(kind, len(labels))
    if kind in ("classification", "multi_label", "tagging"):
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
    config.problem_type = _PROBLEMS.get(kind)
    return auto_class.from_config(config, dtype=torch.float32, trust_remote_code=False)


def task_model(
    config: PreTrainedConfig, folder: str | None, kind: str, labels: tuple[str, ...], **options
) -> PreTrainedModel:
    """A model with a fresh head on the encoder in a folder or hub name, None for random weights.

    options: head, dropout and pooling of new_task_model.

    On a CPU, layers with a faster form (post_norm.py) train in it. ValueError as of new_task_model and load_encoder.
    """
    model = new_task_model(config, kind, labels, **options)
    if folder is not None:
        load_encoder(model, folder)
    return use_fast_layers(model)


def has_head(config: PreTrainedConfig, kind: str) -> bool:
    """Whether the model that this config was saved with has a head for that kind of task."""
    mapping, several = HEAD_MAPPINGS[HEAD_CLASSES[kind]], _PROBLEMS["multi_label"]
    if kind in _PROBLEMS and (config.problem_type == several) != (kind == "multi_label"):
        return False  # one of several labels, and several of them, are other questions to the same layers
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
    values = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout_prob", "dropout"))
    return next((value for value in values if value is not None), 0.1)


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
    problems += sorted(str(mismatched[0]) for mismatched in info["mismatched_keys"])
    if problems:
        raise ValueError(
            f"{folder} must hold all tensors of {type(encoder).__name__}, got one without {problems[0]} in its shape; "
            "name a folder of that kind"
        )
    own = encoder.state_dict()
    tensors = {name: tensor for name, tensor in loaded.state_dict().items() if name in own and name not in absent}
    encoder.load_state_dict(own | tensors)


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether the encoder tells the segments of a pair apart, and was pretrained to.

    Not so: no such argument, a table of one row (RoBERTa), and this repository's own encoders, which masked
    language modelling showed one segment only.
    """
    encoder = model.base_model
    accepted = "token_type_ids" in inspect.signature(encoder.forward).parameters
    own = isinstance(encoder, StrictPreTrainedModel)
    return accepted and getattr(encoder.config, "type_vocab_size", 0) > 1 and not own
