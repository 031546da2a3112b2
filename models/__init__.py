"""Models of this repository; importing the package registers them with transformers' Auto classes."""

import transformers
from transformers import AutoConfig, AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from . import flash, flash_quad, gau, task_heads, transformer_xl
from .base import AUTO_CLASSES
from .flash import (
    FLASHConfig,
    FLASHForMaskedLM,
    FLASHForMultipleChoice,
    FLASHForQuestionAnswering,
    FLASHForSequenceClassification,
    FLASHForTokenClassification,
    FLASHModel,
)
from .flash_quad import (
    FLASHQuadConfig,
    FLASHQuadForMaskedLM,
    FLASHQuadForMultipleChoice,
    FLASHQuadForQuestionAnswering,
    FLASHQuadForSequenceClassification,
    FLASHQuadForTokenClassification,
    FLASHQuadModel,
)
from .gau import (
    GAUAlphaConfig,
    GAUAlphaForMaskedLM,
    GAUAlphaForMultipleChoice,
    GAUAlphaForPreTraining,
    GAUAlphaForQuestionAnswering,
    GAUAlphaForSequenceClassification,
    GAUAlphaForTokenClassification,
    GAUAlphaModel,
)
from .tokenization import GAUAlphaTokenizer
from .transformer_xl import TransformerXLConfig, TransformerXLForCausalLM, TransformerXLModel

__all__ = [
    "FLASHConfig",
    "FLASHForMaskedLM",
    "FLASHForMultipleChoice",
    "FLASHForQuestionAnswering",
    "FLASHForSequenceClassification",
    "FLASHForTokenClassification",
    "FLASHModel",
    "FLASHQuadConfig",
    "FLASHQuadForMaskedLM",
    "FLASHQuadForMultipleChoice",
    "FLASHQuadForQuestionAnswering",
    "FLASHQuadForSequenceClassification",
    "FLASHQuadForTokenClassification",
    "FLASHQuadModel",
    "GAUAlphaConfig",
    "GAUAlphaForMaskedLM",
    "GAUAlphaForMultipleChoice",
    "GAUAlphaForPreTraining",
    "GAUAlphaForQuestionAnswering",
    "GAUAlphaForSequenceClassification",
    "GAUAlphaForTokenClassification",
    "GAUAlphaModel",
    "GAUAlphaTokenizer",
    "TransformerXLConfig",
    "TransformerXLForCausalLM",
    "TransformerXLModel",
]


def register(module, family, tokenizer_class=None) -> None:
    """Makes the family known to the Auto classes, and its code part of every folder that save_pretrained writes."""
    config_class = family.config_class
    AutoConfig.register(config_class.model_type, config_class)
    if tokenizer_class is not None:
        AutoTokenizer.register(config_class, tokenizer_class=tokenizer_class)
    for auto_name, ending in AUTO_CLASSES.items():
        model_class = getattr(module, family.family + ending, None)
        if auto_name != "AutoConfig" and model_class is not None:
            getattr(transformers, auto_name).register(config_class, model_class)
            model_class.register_for_auto_class(auto_name)


register(gau, gau.GAUAlphaPreTrainedModel, GAUAlphaTokenizer)
register(flash_quad, flash_quad.FLASHQuadPreTrainedModel, BertTokenizer)
register(flash, flash.FLASHPreTrainedModel, BertTokenizer)
register(transformer_xl, transformer_xl.TransformerXLPreTrainedModel, PreTrainedTokenizerFast)
register(task_heads, task_heads.LinearHeadPreTrainedModel)
GAUAlphaTokenizer.register_for_auto_class("AutoTokenizer")
