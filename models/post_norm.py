"""The post-norm layer of BERT, RoBERTa and ELECTRA on a CPU, with a backward pass written by hand.

Autograd keeps queries, keys and values twice, probabilities before and after dropout, both sides of the activation and
the inputs and outputs of both norms; it draws dropout's numbers one by one and copies heads back and forth. Here what
is cheap is computed again, and matrix products read the heads where they lie. On a device with fused attention,
and under a compiler, transformers' own layer runs. Letters: B batch, T tokens, H hidden_size, A heads.
"""

import types
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

from .layers import compute_dtype, is_plain, linear_gradients, records_gradients

LAYERS = ("BertLayer", "RobertaLayer", "ElectraLayer")  # one and the same under three names
UNSEEN = -1e4  # added to the score of a key that may not be seen
gelu_backward_into = torch.ops.aten.gelu_backward.grad_input
norm_backward = torch.ops.aten.native_layer_norm_backward
softmax_backward_into = torch.ops.aten._softmax_backward_data.out


@dataclass(frozen=True)
class Recipe:
    """What is not learned: heads, epsilon of the norms, dropout of probabilities and of outputs (0 when it is off)."""

    heads: int
    eps: float
    attention_dropout: float
    hidden_dropout: float


@dataclass(frozen=True)
class Weights:
    """A layer's parameters as its products and norms take them: pairs of weight and bias."""

    joint: tuple  # of query, key and value, [3H, H]
    dense: tuple
    norm: tuple
    up: tuple
    down: tuple
    last_norm: tuple

    @classmethod
    def of(cls, parameters: tuple[torch.Tensor, ...], dtype: torch.dtype) -> "Weights":
        """parameters: weight and bias of query, key, value, and of the others in their order; dtype: of products."""
        joint = tuple(torch.cat(parameters[start:6:2]).to(dtype) for start in (0, 1))
        dense, norm, up, down, last_norm = (parameters[start : start + 2] for start in range(6, 16, 2))
        dense, up, down = (tuple(tensor.to(dtype) for tensor in pair) for pair in (dense, up, down))
        return cls(joint, dense, norm, up, down, last_norm)


def keep_mask(shape: tuple[int, ...], probability: float) -> torch.Tensor | None:
    """1 where dropout keeps, 0 with the probability, rounded to 2^-16; int8 of this shape, None for probability 0."""
    if not probability:
        return None
    count = torch.Size(shape).numel()
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    border = round(probability * 2**16) - 2**15  # the least number that is kept
    return numbers.clamp_(border - 1, border).sub_(border - 1).to(torch.int8)[:count].view(shape)


def factors(keep: torch.Tensor, probability: float, dtype: torch.dtype) -> torch.Tensor:
    """What dropout multiplies by: 0, or 1 / (1 - probability) where it keeps."""
    return keep.to(dtype).mul_(1 / (1 - probability))


def add_dropped(output: torch.Tensor, keep: torch.Tensor | None, probability: float, residual: torch.Tensor):
    """residual + dropout(output), in residual's dtype; overwrites output."""
    output = output.to(residual.dtype)
    return (output if keep is None else output.mul_(factors(keep, probability, output.dtype))).add_(residual)


def scaled_product(left: torch.Tensor, right: torch.Tensor, scale: float, out: torch.Tensor) -> None:
    """out [B, X, Z] = scale * left [B, X, Y] right [B, Y, Z]; the product takes the factor in passing."""
    torch.baddbmm(out, left, right, beta=0, alpha=scale, out=out)


def attend(projected: torch.Tensor, bias: torch.Tensor | None, keep: torch.Tensor | None, probability: float):
    """projected [B, T, 3, A, H/A] -> probabilities [A, B, T, T] before dropout, mixed values [B, T, A, H/A]."""
    batch, length, _, heads, width = projected.shape
    probabilities = torch.empty(heads, batch, length, length, dtype=projected.dtype)
    mixed = torch.empty(batch, length, heads, width, dtype=projected.dtype)
    for head, scores in enumerate(probabilities):
        query, key, value = projected[:, :, :, head].unbind(2)
        scaled_product(query, key.transpose(1, 2), width**-0.5, scores)
        if bias is not None:
            scores.add_(bias)
        torch.softmax(scores, -1, out=scores)
        weights = scores if keep is None else factors(keep[head], probability, scores.dtype).mul_(scores)
        torch.bmm(weights, value, out=mixed[:, :, head])
    return probabilities, mixed


def attend_backward(
    gradient: torch.Tensor,
    projected: torch.Tensor,
    probabilities: torch.Tensor,
    keep: torch.Tensor | None,
    probability: float,
) -> torch.Tensor:
    """Gradient of `attend`'s mixed values [B, T, A, H/A] -> that of projected."""
    result = torch.empty_like(projected)
    width = projected.shape[-1]
    for head, weights in enumerate(probabilities):
        query, key, value = projected[:, :, :, head].unbind(2)
        query_gradient, key_gradient, value_gradient = result[:, :, :, head].unbind(2)
        outer = gradient[:, :, head]
        inner = outer @ value.transpose(1, 2)
        if keep is None:
            dropped = weights
        else:
            dropped = factors(keep[head], probability, weights.dtype)
            inner.mul_(dropped)
            dropped.mul_(weights)
        torch.bmm(dropped.transpose(1, 2), outer, out=value_gradient)
        softmax_backward_into(inner, weights, -1, weights.dtype, grad_input=inner)
        scaled_product(inner, key, width**-0.5, query_gradient)
        scaled_product(inner.transpose(1, 2), query, width**-0.5, key_gradient)
    return result


class PostNormLayer(torch.autograd.Function):
    """hidden [B, T, H], bias [B, 1 or T, T] of scores or None, the layer's 16 parameters -> hidden [B, T, H].

    Products run in autocast's dtype, sums and norms in that of hidden.
    """

    @staticmethod
    def forward(ctx, hidden, bias, recipe: Recipe, *parameters):
        dtype, (batch, length, width) = compute_dtype(hidden), hidden.shape
        with torch.autocast("cpu", enabled=False):
            weights = Weights.of(parameters, dtype)
            inputs = hidden.reshape(-1, width)
            projected = F.linear(inputs.to(dtype), *weights.joint).view(batch, length, 3, recipe.heads, -1)
            keep = keep_mask((recipe.heads, batch, length, length), recipe.attention_dropout)
            probabilities, mixed = attend(projected, bias, keep, recipe.attention_dropout)
            first_keep, last_keep = (keep_mask(inputs.shape, recipe.hidden_dropout) for _ in range(2))
            sums = F.linear(mixed.view(-1, width), *weights.dense)
            sums = add_dropped(sums, first_keep, recipe.hidden_dropout, inputs)
            middle, *moments = torch.native_layer_norm(sums, (width,), *weights.norm, recipe.eps)
            expanded = F.linear(middle.to(dtype), *weights.up)
            last_sums = F.linear(F.gelu(expanded), *weights.down)
            last_sums = add_dropped(last_sums, last_keep, recipe.hidden_dropout, middle)
            result, *last_moments = torch.native_layer_norm(last_sums, (width,), *weights.last_norm, recipe.eps)
        kept = (hidden, projected, probabilities, mixed, sums, expanded, last_sums, keep, first_keep, last_keep)
        ctx.save_for_backward(*kept, *moments, *last_moments, *parameters)
        ctx.recipe, ctx.dtype = recipe, dtype
        return result.view(batch, length, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        hidden, projected, probabilities, mixed, sums, expanded, last_sums, *saved = ctx.saved_tensors
        keep, first_keep, last_keep, *saved = saved
        moments, last_moments, parameters = saved[:2], saved[2:4], saved[4:]
        recipe, dtype, width = ctx.recipe, ctx.dtype, hidden.shape[-1]

        def through_norm(gradient, inputs, moments, norm):
            return norm_backward(gradient, inputs, (width,), *moments, *norm, (True, True, True))

        def through_dropout(gradient, mask):
            gradient = gradient.to(dtype)
            return gradient if mask is None else factors(mask, recipe.hidden_dropout, dtype).mul_(gradient)

        def of_weights(gradient, inputs):
            return linear_gradients(gradient, inputs, parameters[0].dtype, bias=True)

        with torch.autocast("cpu", enabled=False):
            weights = Weights.of(parameters, dtype)
            gradient = gradient.reshape(-1, width)
            residual, *last_norm = through_norm(gradient, last_sums, last_moments, weights.last_norm)
            inner = through_dropout(residual, last_keep)
            down = of_weights(inner, F.gelu(expanded))
            inner = inner @ weights.down[0]
            gelu_backward_into(inner, expanded, grad_input=inner)
            middle = torch.native_layer_norm(sums, (width,), *weights.norm, recipe.eps)[0]
            up = of_weights(inner, middle.to(dtype))
            residual += inner @ weights.up[0]
            residual, *norm = through_norm(residual, sums, moments, weights.norm)
            inner = through_dropout(residual, first_keep)
            dense = of_weights(inner, mixed.view(-1, width))
            inner = (inner @ weights.dense[0]).view(mixed.shape)
            inner = attend_backward(inner, projected, probabilities, keep, recipe.attention_dropout).flatten(2)
            inner = inner.view(-1, 3 * width)
            joint = of_weights(inner, hidden.reshape(-1, width).to(dtype))
            residual += inner @ weights.joint[0]
        joint = [part for pair in zip(*(tensor.chunk(3) for tensor in joint), strict=True) for part in pair]
        return residual.view(hidden.shape), None, None, *joint, *dense, *norm, *up, *down, *last_norm


def use_fast_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Let the model's post-norm layers run PostNormLayer wherever they can, in training on a CPU; returns it.

    Their modules, parameters and hooks stay. Other layers, other activations than the exact GELU, attention that is
    not sdpa, cross-attention, passes without gradients, and layers of which a part was wrapped (an adapter) or has a
    hook run as transformers has them.
    """
    for module in model.modules():
        plain = type(module).__name__ in LAYERS and not module.is_decoder
        if plain and type(module.intermediate.intermediate_act_fn) is GELUActivation:
            module.forward = types.MethodType(_layer_forward, module)
    return model


def _layer_forward(layer: nn.Module, hidden_states: torch.Tensor, attention_mask=None, *args, **kwargs):
    attention, output = layer.attention.self, layer.attention.output
    fast = hidden_states.device.type == "cpu" and records_gradients()
    fast = fast and attention.config._attn_implementation == "sdpa"
    if not fast or not all(module is layer or is_plain(module) for module in layer.modules()):
        return type(layer).forward(layer, hidden_states, attention_mask, *args, **kwargs)
    linears = (attention.query, attention.key, attention.value, output.dense, output.LayerNorm)
    linears += (layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm)
    recipe = Recipe(
        attention.num_attention_heads,
        output.LayerNorm.eps,
        attention.dropout.p if layer.training else 0.0,
        output.dropout.p if layer.training else 0.0,
    )
    bias = None
    if attention_mask is not None:  # [B, 1, 1 or T, T], bool or what is added to scores
        bias, first = attention_mask[:, 0], attention_mask[:, 0, :1]
        bias = first if torch.equal(bias, first.expand_as(bias)) else bias  # padding hides the same from every query
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=compute_dtype(hidden_states)).masked_fill_(~bias, UNSEEN)
    parameters = (parameter for linear in linears for parameter in (linear.weight, linear.bias))
    return PostNormLayer.apply(hidden_states, bias, recipe, *parameters)
