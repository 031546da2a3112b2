"""Small models of every family and option, and batches for their heads."""

import pytest
import torch

import models

SMALL = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 16}
GAU = SMALL | {"intermediate_size": 40, "attention_key_size": 8, "hidden_dropout_prob": 0.0}
GAU |= {"attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
QUAD = SMALL | {"s": 8, "classifier_dropout": 0.0}
FLASH = SMALL | {"group_size": 8, "query_key_dim": 40, "classifier_dropout": 0.0, "linear_divisor": "valid"}
VARIANTS = {
    "gau": ("GAUAlpha", GAU),
    "gau_squared_relu": ("GAUAlpha", GAU | {"normalization": "squared_relu"}),
    "gau_softmax_bias": ("GAUAlpha", GAU | {"normalization": "softmax", "use_bias": True, "attention_scale": False}),
    "flash_quad": ("FLASHQuad", QUAD),
    "flash_quad_layer_norm": ("FLASHQuad", QUAD | {"norm_type": "layer_norm", "expansion_factor": 1.5}),
    "flash": ("FLASH", FLASH),
    "flash_layer_norm": ("FLASH", FLASH | {"norm_type": "layernorm", "linear_divisor": "max_position"}),
    "flash_causal": ("FLASH", FLASH | {"causal": True, "shift_tokens": True}),
    "flash_grouped": ("FLASH", FLASH | {"reduce_group_non_causal_attn": False, "laplace_attn_fn": True}),
}
HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")
HEADS += ("ForQuestionAnswering",)
EVERY = pytest.mark.parametrize("variant", VARIANTS)
EVERY_HEAD = pytest.mark.parametrize("ending", HEADS)


def make(variant, ending="ForMaskedLM", strong=True, **fields):
    """A model; unless strong is false, with parameters so large that every part of it shows in the output."""
    family, config = VARIANTS[variant]
    torch.manual_seed(0)
    model = getattr(models, family + ending)(getattr(models, f"{family}Config")(**config | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters() if strong else ():
            if parameter.dim() > 1:
                heads = parameter.shape[0] <= 4
                parameter.normal_(std=1.0 if heads else parameter.shape[1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch(lengths=(12, 7, 3), total=12, seed=1):
    torch.manual_seed(seed)
    mask = torch.arange(total) < torch.tensor(lengths).unsqueeze(-1)
    return torch.randint(1, 50, mask.shape) * mask, mask.long()


def head_inputs(ending, ids, mask):
    """Arguments with labels for each head."""
    if ending == "ForMaskedLM":
        labels = torch.where((torch.arange(ids.shape[1]) % 3 == 1) & mask.bool(), ids, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if ending == "ForSequenceClassification":
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(len(ids)) % 2}
    if ending == "ForTokenClassification":
        return {"input_ids": ids, "attention_mask": mask, "labels": (ids % 2).masked_fill(mask == 0, -100)}
    if ending == "ForMultipleChoice":
        return {"input_ids": ids.unsqueeze(0), "attention_mask": mask.unsqueeze(0), "labels": torch.tensor([1])}
    ends = mask.sum(-1) - 1
    return {"input_ids": ids, "attention_mask": mask, "start_positions": ends * 0, "end_positions": ends}


def make_xl(seed=0, **fields):
    """A small model whose every parameter shows in the output."""
    torch.manual_seed(seed)
    plain = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain |= {"eos_token_id": 49, "pad_token_id": 49, "attention_window": 12}
    model = models.TransformerXLForCausalLM(models.TransformerXLConfig(**plain | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def doubles(*shapes):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)
