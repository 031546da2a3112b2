"""Cross entropy over a vocabulary, and what goes with it, without the matrix of logits.

Rows go through the output projection some at a time: their logits give loss, likeliest and sampled token, become their
own gradient in place and are multiplied on at once, so that neither logits nor gradients of all rows stand in memory
and no pass over them is made twice.
Letters: N tokens, n of them at a time, E width of the output matrix, V vocab_size.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..heads import IGNORED
from ..layers import compute_dtype, widened
from .token_sampling import Sampler, block_reduce, likeliest, sample_tokens

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**26}  # at a time: what a CPU's cache holds, what keeps a GPU busy


class VocabularyLoss(torch.autograd.Function):
    """(hidden [N, E], output matrix [V, E], its bias [V] or None, labels [N] int64, keys [N] int64 or None) ->

    sum of cross entropies in at least fp32, whether each row's likeliest token is the label [N], sampled tokens [N].
    A label of -100 takes no part. Without a matrix hidden holds the logits [N, V]; without a sampler nothing is
    sampled and keys are not needed; smoothing moves the labels towards the uniform distribution; gradients are
    computed along with the loss, and not at all unless differentiate is true.
    """

    @staticmethod
    def forward(
        ctx, hidden, weight, bias, labels, keys, sampler: Sampler | None, smoothing: float, differentiate: bool
    ):
        dtype, size = compute_dtype(hidden), hidden.shape[1] if weight is None else weight.shape[0]
        rows = max(1, CHUNK_LOGITS.get(hidden.device.type, 2**26) // size)
        loss, correct = widened(hidden.new_zeros(())), torch.empty_like(labels, dtype=torch.bool)
        sampled = None if sampler is None else torch.empty_like(labels)
        ctx.gradients = [
            None if t is None or not differentiate else torch.zeros_like(t) for t in (hidden, weight, bias)
        ]
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, offset = (None if tensor is None else tensor.to(dtype) for tensor in (weight, bias))
            start = -rows
            while (start := start + rows) < hidden.shape[0]:  # a range would make a compiled graph for each number
                part = slice(start, start + rows)
                inputs = hidden[part].to(dtype)
                logits = widened(inputs.clone() if matrix is None else F.linear(inputs, matrix, offset))
                numbers = consume(logits, labels[part], None if keys is None else keys[part], sampler, smoothing)
                loss, correct[part] = loss + numbers[0], numbers[1]
                if sampler is not None:
                    sampled[part] = numbers[2]
                if differentiate:
                    add_gradients(ctx.gradients, part, logits.to(dtype), inputs, matrix)
        ctx.mark_non_differentiable(correct, *([] if sampled is None else [sampled]))
        return loss, correct, sampled

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *_):
        return *(None if tensor is None else (tensor * gradient).to(tensor.dtype) for tensor in ctx.gradients), *[
            None
        ] * 5


def consume(
    logits: torch.Tensor, labels: torch.Tensor, keys: torch.Tensor | None, sampler: Sampler | None, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Loss, which rows are correct and sampled tokens of logits [n, V], which become the loss's gradient."""
    valid, index = labels != IGNORED, labels.clamp(min=0).unsqueeze(-1)
    maxima = block_reduce(logits, torch.amax)
    maximum = maxima.amax(-1, keepdim=True)
    correct = likeliest(logits, maxima) == labels  # -100 is no token
    target = (1 - smoothing) * logits.gather(1, index).squeeze(-1)
    if smoothing:
        target += smoothing * logits.mean(-1)
    sampled = None if sampler is None or sampler.takes_softmax else sampler(logits, labels, keys)
    sums = block_reduce(logits.sub_(maximum).exp_(), torch.sum)
    total = sums.sum(-1, keepdim=True)
    if sampler is not None and sampler.takes_softmax:
        sampled = sample_tokens(logits, sums, keys, sampler.method)
    losses = (total.log() + maximum).squeeze(-1) - target
    weight = valid.unsqueeze(-1).to(logits.dtype)
    logits.mul_(weight / total).scatter_add_(1, index, weight * (smoothing - 1))
    if smoothing:
        logits.sub_(weight * (smoothing / logits.shape[1]))
    return losses.masked_fill(~valid, 0).sum(), correct, sampled


def add_gradients(
    gradients: list[torch.Tensor | None],
    part: slice,
    gradient: torch.Tensor,
    inputs: torch.Tensor,
    matrix: torch.Tensor | None,
) -> None:
    """Adds to the gradients of hidden, matrix and bias what gradient [n, V], of the part's logits, makes of them."""
    hidden, weight, bias = gradients
    hidden[part] = gradient if matrix is None else gradient @ matrix
    if weight is not None and weight.dtype == gradient.dtype:
        weight.addmm_(gradient.T, inputs)
    elif weight is not None:
        weight += gradient.T @ inputs
    if bias is not None:
        bias += gradient.sum(0)
