"""Heads that encoders of this repository share: masked LM, replaced tokens, classification, question answering.

Each class is a mixin that stands before a family's PreTrainedModel: the base model, of `base_class`, is an attribute
named by `base_model_prefix`, head parameters keep HF's names (`cls.predictions`, `classifier`, `qa_outputs`).
Classification reads the first token, [CLS]: the published GAU-alpha config says so, and the others' default, the last
position, is padding. No forward takes **kwargs: Trainer would believe that it divides by num_items_in_batch.
Letters: B batch, T tokens, P masked positions of the fullest row, H hidden_size, V vocab_size, C labels or choices.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.electra.modeling_electra import ElectraForPreTrainingOutput
from transformers.utils.generic import can_return_tuple

IGNORED = -100  # a label that takes no part in the loss, as everywhere in HF


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in fp32 over labels that are not -100; 0, never NaN, when there are none.

    logits [..., V], labels [...] int64; a scalar in nats.
    """
    total = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)


def replaced_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy in fp32 of logits [B, T] over labels [B, T] that are not -100; 0 without any."""
    asked = labels != IGNORED
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    return losses.masked_fill(~asked, 0).sum() / asked.sum().clamp(min=1)


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, config) -> torch.Tensor:
    """Loss of logits [B, C] by config.problem_type, which is inferred from C and the labels' dtype when unset."""
    kind = config.problem_type
    if kind is None:
        single = "single_label_classification" if labels.dtype in (torch.long, torch.int) else None
        kind = "regression" if config.num_labels == 1 else single or "multi_label_classification"
    if kind == "regression":
        return F.mse_loss(logits.float().squeeze(-1), labels.float().squeeze(-1))
    if kind == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return token_loss(logits, labels)


def span_loss(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    start_positions: torch.Tensor | None,
    end_positions: torch.Tensor | None,
) -> torch.Tensor | None:
    """Mean loss of logits [B, T] over both ends [B] int64, those outside the row ignored; None without both."""
    if start_positions is None or end_positions is None:
        return None
    length = start_logits.shape[1]
    labels = [
        position.reshape(-1).masked_fill((position < 0) | (position >= length), IGNORED)
        for position in (start_positions, end_positions)
    ]
    return (token_loss(start_logits, labels[0]) + token_loss(end_logits, labels[1])) / 2


def first_positions(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """The place of [CLS] in each row, [B, 1] of 0: all that the last layer need compute for a head on it."""
    inputs = inputs_embeds if input_ids is None else input_ids
    return torch.zeros(inputs.shape[0], 1, dtype=torch.int64, device=inputs.device)


class Predictions(nn.Module):
    """Scores of the vocabulary: hidden [B, P, H] -> [B, P, V], the last step of which is `decoder`, a linear layer."""

    decoder: nn.Linear

    def replace_decoder(self, decoder: nn.Linear) -> None:
        self.decoder = decoder


class MaskedLMHead:
    """Scores of the vocabulary at masked positions; predictions_class is one of Predictions."""

    def __init__(self, config):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.base_class(config))
        self.cls = nn.ModuleDict({"predictions": self.predictions_class(config)})
        self.post_init()

    def get_output_embeddings(self):
        return self.cls["predictions"].decoder

    def set_output_embeddings(self, new_embeddings):
        self.cls["predictions"].replace_decoder(new_embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_positions: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput:
        """labels [B, T] int64, -100 where nothing is asked; masked_positions [B, P] int64.

        With masked_positions, logits [B, P, V] and loss are of these positions only (a repeated position 0 fills short
        rows; its label is -100). With labels alone, training computes logits [N, V] of the N labelled tokens, which
        costs one host sync on a GPU; evaluation, and a call without labels, give logits [B, T, V].
        """
        outputs = self.base_model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            output_positions=masked_positions,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        if masked_positions is not None:
            labels = None if labels is None else labels.gather(1, masked_positions)
        elif labels is not None and self.training:
            chosen = labels != IGNORED
            hidden, labels = hidden[chosen], labels[chosen]
        logits = self.cls["predictions"](hidden)
        return MaskedLMOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ReplacedTokenPredictions(nn.Module):
    """Dense, activation, one score; parameters named as in transformers' ELECTRA."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dense_prediction = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dense_prediction(self.activation(self.dense(hidden))).squeeze(-1)


class PreTrainingHead:
    """ELECTRA's discriminator: a score of every token for being replaced."""

    def __init__(self, config):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.base_class(config))
        self.discriminator_predictions = ReplacedTokenPredictions(config)
        self.post_init()

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
    ) -> ElectraForPreTrainingOutput:
        """labels [B, T] int64: 1 replaced, 0 original, -100 nothing asked; logits [B, T]."""
        outputs = self.base_model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.discriminator_predictions(outputs.last_hidden_state)
        return ElectraForPreTrainingOutput(
            loss=None if labels is None else replaced_token_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class SequenceClassificationHead:
    """A linear layer on the first token's hidden state."""

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, self.base_class(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

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
        """labels [B] int64 (classes), [B] float (regression) or [B, C] float (multi-label); logits [B, C]."""
        outputs = self.base_model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            output_positions=first_positions(input_ids, inputs_embeds),
            return_dict=True,
        )
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        return SequenceClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TokenClassificationHead:
    """Dropout and a linear layer on every token's hidden state."""

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, self.base_class(config))
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

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
        """labels [B, T] int64, -100 where nothing is asked; logits [B, T, C]."""
        outputs = self.base_model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        return TokenClassifierOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MultipleChoiceHead:
    """One score per choice, from its first token; all choices of a row run through the encoder as one batch."""

    def __init__(self, config):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.base_class(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

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
        outputs = self.base_model(
            *flat,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            output_positions=first_positions(flat[0], flat[-1]),
            return_dict=True,
        )
        logits = self.classifier(outputs.last_hidden_state[:, 0]).view(-1, choices)
        return MultipleChoiceModelOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class QuestionAnsweringHead:
    """Scores of every token as the start and as the end of the answer."""

    def __init__(self, config):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.base_class(config))
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

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
        """start_positions, end_positions [B] int64 (outside the row: ignored); start and end logits [B, T]."""
        outputs = self.base_model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(-1)
        return QuestionAnsweringModelOutput(
            loss=span_loss(start_logits, end_logits, start_positions, end_positions),
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
