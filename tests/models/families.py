"""Every family and head as a user of other libraries meets them: small models, and inputs with labels for each."""

import pytest
import torch
import transformers

import models
from models import task_heads
from models.base import AUTO_CLASSES
from models.post_norm import use_fast_layers
from models.task_heads import LinearHeadConfig
from tests.models.small_models import VARIANTS, head_inputs, make_xl
from tests.models.small_models import make as make_variant

STOCK = {"vocab_size": 50, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}
STOCK |= {"max_position_embeddings": 64, "num_hidden_layers": 2, "embedding_size": 16, "classifier_dropout": 0.0}
STOCK |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "summary_last_dropout": 0.0}
OWN = {"GAUAlpha": "gau", "FLASHQuad": "flash_quad", "FLASH": "flash"}
HOMES = dict.fromkeys(OWN, models) | {"TransformerXL": models, "Electra": transformers}
HOMES |= {"LinearHead": task_heads, "LinearHeadMean": task_heads}
SKIPPED = {("Electra", "ForCausalLM"), ("LinearHeadMean", "ForTokenClassification")}
SKIPPED |= {("LinearHeadMean", "ForMultipleChoice"), ("LinearHeadMean", "ForQuestionAnswering")}
CASES = [
    (family, ending)
    for family in HOMES
    for ending in AUTO_CLASSES.values()
    if ending not in ("Config", "Model")
    and hasattr(HOMES[family], family.removesuffix("Mean") + ending)
    and (family, ending) not in SKIPPED
]
EVERY_CASE = pytest.mark.parametrize(("family", "ending"), CASES)
CLASSIFIERS = [case for case in CASES if case[1] == "ForSequenceClassification"]


def config_of(family, **fields):
    """LinearHead is on ELECTRA and reads the first token, LinearHeadMean on GAU-alpha and reads all."""
    if family == "Electra":
        return transformers.ElectraConfig(**STOCK | fields)
    if family == "LinearHead":
        return LinearHeadConfig(encoder=config_of("Electra"), classifier_dropout=0.0, **fields)
    encoder = models.GAUAlphaConfig(**VARIANTS["gau"][1])
    return LinearHeadConfig(encoder=encoder, classifier_dropout=0.0, pooling="mean", **fields)


def make(family, ending, **fields):
    """A model of eval mode, of which every parameter shows in the output; fields: of its config."""
    if ending in ("ForMaskedLM", "ForCausalLM"):  # so that each linear layer is its own
        fields = {"tie_word_embeddings": False} | fields
    if family in OWN:
        return make_variant(OWN[family], ending, **fields)
    if family == "TransformerXL":
        return make_xl(hidden_dropout=0.0, attention_dropout=0.0, **fields)
    torch.manual_seed(0)
    kind = getattr(HOMES[family], family.removesuffix("Mean") + ending)
    model = use_fast_layers(kind(config_of(family, **fields))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def rows(ending, count=2, length=12, labels=True):
    """Arguments of a forward: rows of which the last one ends with padding, where it can; labels of the head."""
    real = torch.full((count, 1), length)
    real[-1] = max(length - 3, 1)
    mask = (torch.arange(length) < real).long()
    ids = torch.randint(2, 49, mask.shape, generator=torch.Generator().manual_seed(count * length))
    if ending == "ForCausalLM":
        inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    elif ending == "ForPreTraining":
        inputs = head_inputs("ForTokenClassification", ids, mask)
    else:
        inputs = head_inputs(ending, ids, mask)
    asked = ("labels", "start_positions", "end_positions")
    return inputs if labels else {name: value for name, value in inputs.items() if name not in asked}


def said(model, **inputs):
    """What a model says of rows, without a loss: logits, or those of the start."""
    return model(**inputs)[0]
