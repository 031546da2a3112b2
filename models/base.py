"""What every model of this repository shares: strict loading, complete auto_map, the encoder's forward.

transformers warns about a missing or unexpected tensor and goes on with random weights; here it is an error. Letters:
B batch, T tokens, H hidden_size.
"""

import sys

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .layers import gather_positions

# Auto class -> what follows the family's name in the name of its class; a family need not have all.
AUTO_CLASSES = {
    "AutoConfig": "Config",
    "AutoModel": "Model",
    "AutoModelForMaskedLM": "ForMaskedLM",
    "AutoModelForPreTraining": "ForPreTraining",
    "AutoModelForCausalLM": "ForCausalLM",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
    "AutoModelForMultipleChoice": "ForMultipleChoice",
    "AutoModelForQuestionAnswering": "ForQuestionAnswering",
}
TASK_HEADS = (
    "classifier.",
    "qa_outputs.",
    "discriminator_predictions.",
)  # made anew for each task, so they may be absent from a checkpoint
MOST_ENTRIES = 2**31 - 1  # of a dimension; whether all fits into memory is another question
MOST_LAYERS = 500
MOST_EXPANSION = 1024  # of a layer's width over hidden_size
ALL_HEADS = ("cls.", "lm_head.", *TASK_HEADS)


class StrictPreTrainedModel(PreTrainedModel):
    """PreTrainedModel whose from_pretrained raises unless every tensor found its place.

    A family's own base class sets `family`, with which the names of its classes begin, `config_class`,
    `base_model_prefix` and `_no_split_modules`.
    """

    family: str
    takes_pair_masks = True  # attention_mask [B, T, T]
    _supports_sdpa = True  # attn_implementation sdpa is the default; eager keeps gated units from gated.py
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_unexpected = (r"(^|\.)position_ids$",)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info=False, **kwargs):
        """As transformers does it, but a missing, mis-shaped or unexpected tensor raises ValueError.

        Free are: a new task head (see TASK_HEADS), heads of another class, tables that older code saved,
        and second copies of tied tensors, which must be equal, also where this class has no such head.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        own_heads = {f"{name}." for name, _ in model.named_children()}
        other_heads = tuple(head for head in ALL_HEADS if head not in own_heads)
        problems = [f"{key} is missing" for key in info["missing_keys"] if not key.startswith(TASK_HEADS)]
        problems += [f"{key} is unexpected" for key in info["unexpected_keys"] if not key.startswith(other_heads)]
        problems += [
            f"{key} has shape {tuple(shape)} for {tuple(wanted)}"
            for key, shape, wanted in info["mismatched_keys"]
            if not key.startswith(TASK_HEADS)
        ]
        untied = model.get_expanded_tied_weights_keys(all_submodels=True).items() - model.all_tied_weights_keys.items()
        problems += [f"{target} differs from {source}, to which it is tied" for target, source in untied]
        if problems:
            shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise ValueError(
                f"{pretrained_model_name_or_path} must hold exactly the tensors of {cls.__name__}, got: {shown}; "
                "check its config.json, or rewrite foreign names with convert_checkpoint.py"
            )
        for ending in ("ForMaskedLM", "ForCausalLM"):
            tied = getattr(sys.modules[cls.config_class.__module__], cls.family + ending, cls)
            if tied is not cls and info["unexpected_keys"] & tied._tied_weights_keys.keys():
                tied.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # raises unless they are equal
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, *args, state_dict=None, **kwargs):
        """As transformers does it; config.json names the code of every head, not of the saved class alone.

        Of a state_dict, where tied tensors may have become copies of one another, each is written once.
        """
        module = sys.modules[type(self).__module__]
        names = {auto: self.family + ending for auto, ending in AUTO_CLASSES.items()}
        file = module.__name__.rsplit(".", 1)[-1]
        self.config.auto_map = {auto: f"{file}.{name}" for auto, name in names.items() if hasattr(module, name)}
        if state_dict is not None:
            tied = {target for target, source in self.all_tied_weights_keys.items() if source in state_dict}
            state_dict = {name: tensor for name, tensor in state_dict.items() if name not in tied}
        return super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)


class Encoder:
    """The base model's forward, ids [B, T] -> hidden states [B, T, H]; a mixin before the family's PreTrainedModel.

    The model sets `self.embeddings.word_embeddings` and `self.encoder`, whose one entry is the list of layers under
    its published name, and turns a batch into what its layers take.
    """

    @property
    def layers(self) -> nn.ModuleList:
        (layers,) = self.encoder.values()
        return layers

    def prepare(self, embeds, input_ids, attention_mask, token_type_ids, position_ids) -> tuple[torch.Tensor, tuple]:
        """Word embeddings [B, T, H] and the arguments of forward -> first hidden states, further inputs of a layer."""
        raise NotImplementedError

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value):
        self.embeddings.word_embeddings = value

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
        output_positions: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """With output_positions [B, P] int64, last_hidden_state is [B, P, H], of these positions of each row only."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given; leave the other out")
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        embeds = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        hidden, layer_inputs = self.prepare(embeds, input_ids, attention_mask, token_type_ids, position_ids)
        all_hidden, all_attentions = [hidden], []
        for number, layer in enumerate(self.layers, start=1):
            # What the last layer does after attention is needed at the asked positions only.
            narrow = number == len(self.layers) and not output_hidden_states
            positions = output_positions if narrow else None
            hidden, attention = layer(hidden, *layer_inputs, bool(output_attentions), positions)
            if output_hidden_states:
                all_hidden.append(hidden)
            if output_attentions:
                all_attentions.append(attention)
        if output_positions is not None and output_hidden_states:
            hidden = gather_positions(hidden, output_positions)
        return BaseModelOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(all_hidden) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
        )


def numbers_documents(attention_mask: torch.Tensor | None) -> bool:
    """Whether a mask has the numbers of each token's document, integers [B, 1, T]: a token sees those of its own."""
    if attention_mask is None or attention_mask.dim() != 3 or attention_mask.dtype == torch.bool:
        return False
    return attention_mask.shape[1] == 1 < attention_mask.shape[2]


def document_sizes(numbers: torch.Tensor) -> torch.Tensor:
    """How many tokens of its row have a token's number, int64 [B, T, 1]; numbers [B, 1, T] from 0 to T."""
    rows, _, length = numbers.shape
    entries = numbers.flatten(1) + torch.arange(rows, device=numbers.device).unsqueeze(-1) * (length + 1)
    entries = entries.flatten()
    counts = torch.zeros(rows * (length + 1), dtype=torch.int64, device=numbers.device)
    counts = counts.index_add_(0, entries, torch.ones_like(entries))
    return counts.index_select(0, entries).view(rows, length, 1)


def attention_mask_or_pads(
    attention_mask: torch.Tensor | None, input_ids: torch.Tensor | None, embeds: torch.Tensor, pad_token_id: int | None
) -> torch.Tensor:
    """Boolean mask [B, T] or [B, T, T] (query, key): as given, else where ids are not padding, else all true.

    Numbers of documents [B, 1, T] become the mask of pairs that they stand for.
    """
    if attention_mask is not None:
        if attention_mask.dim() not in (2, 3):
            raise ValueError(
                f"attention_mask must have shape [B, T] or [B, T, T], got {tuple(attention_mask.shape)}; "
                "pass 1 where a key may be seen"
            )
        return attention_mask.mT == attention_mask if numbers_documents(attention_mask) else attention_mask.bool()
    if input_ids is not None and pad_token_id is not None:
        return input_ids != pad_token_id
    return torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError, naming the config field, when value is not one of the choices."""
    if value not in choices:
        raise ValueError(f"config field {field} must be one of {', '.join(choices)}, got {value!r}; correct it")


def check_range(config: PreTrainedConfig, least: float, most: float, *fields: str) -> None:
    """Raises ValueError, naming the config field, when a number is below least, above most, or none."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, (int, float)) or not least <= value <= most:
            raise ValueError(
                f"config field {field} must lie between {least:g} and {most:g}, got {value!r}; correct it"
            )


def check_sizes(config: PreTrainedConfig, *fields: str) -> None:
    """Refuse a size that no tensor can have, a number of layers that would take minutes to build, and a value of
    another type.
    """
    for field, kind in type(config).__annotations__.items():
        value = getattr(config, field)
        whole = field in (*fields, "num_hidden_layers", "pad_token_id") and value is not None
        if (whole and type(value) is not int) or (kind is bool and type(value) is not bool):
            raise ValueError(f"config field {field} must be of type {'int' if whole else 'bool'}, got {value!r}")
    check_range(config, 1, MOST_ENTRIES, *fields)
    check_range(config, 1, MOST_LAYERS, "num_hidden_layers")
    check_range(config, 0, 1e9, "initializer_range", "layer_norm_eps")


def check_padding(config: PreTrainedConfig) -> None:
    """Refuse a padding id that has no row in the table of word embeddings."""
    if config.pad_token_id is not None:
        check_range(config, 0, config.vocab_size - 1, "pad_token_id")


def nested_config(field: str, fields: dict, own: dict[str, type] | None = None) -> PreTrainedConfig:
    """The config that the fields of a nested one give; ValueError, naming the field, when they give none.

    own: model_type -> class, for those that need not be registered with transformers.
    """
    fields = dict(fields)
    kind = fields.pop("model_type", None)
    if not isinstance(kind, str):
        raise ValueError(f"config field {field} must have a model_type, got {kind!r}; correct it")
    return own[kind](**fields) if kind in (own or {}) else AutoConfig.for_model(kind, **fields)


def check_even(field: str, value: int) -> None:
    """Refuse an odd width where a rotary or sinusoidal table takes its entries in pairs."""
    if value % 2:
        raise ValueError(f"config field {field} must be even, got {value}; its entries are rotated in pairs")
