"""Gated attention with a backward pass written by hand: what is wide is kept once, what is narrow is computed again.

The fast path in training of the formula that each model's own file has: output = (silu(u) * A silu(v)) Wo^T.
Autograd would keep u, v, their activations, products and concatenated gradients, each [B, T, E] or wider. Here the
projection before its activation, A v and A are all that is kept; activations are computed again and gradients go
straight into one buffer. Queries and keys, D wide, run through autograd a second time in the backward pass.
Letters: B batch, T tokens, N groups of G tokens, H hidden_size, E expanded width, D query/key width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .layers import (
    affine_heads,
    gather_positions,
    keep_factors,
    linear_gradients,
    rotate,
    scatter_positions,
    toeplitz,
    widened,
)

# Queries at a time where rows are longer than LONG tokens: scores then take memory for these, not for the whole row.
QUERIES, LONG = 1024, 2048
silu_backward_into = torch.ops.aten.silu_backward.grad_input


@dataclass(frozen=True)
class Attention:
    """How queries meet keys in every layer of one forward pass."""

    table: torch.Tensor  # of `rotate`
    interleaved: bool  # of `rotate`
    query_scale: torch.Tensor | float  # with key_scale every factor of the scores: none is [T, T]; [B, 1 or T, 1]
    softmax: bool  # else squared ReLU
    # What a query may not see: keys where unseen [B, 1 or T, T] is true; or those of other numbers than its own, given
    # for queries [B, T, 1] and keys [B, 1, T], so that no mask of all pairs is ever kept.
    unseen: torch.Tensor | None = None
    query_numbers: torch.Tensor | None = None
    key_numbers: torch.Tensor | None = None
    key_scale: float | None = None  # None for 1
    divisor: torch.Tensor | None = None  # of the squared ReLU, [B, 1 or T, 1]
    dropout: float = 0.0
    positions: torch.Tensor | None = None  # [B, P], the only queries; else all T

    def at(self, positions: torch.Tensor) -> "Attention":
        """The same for queries at positions [B, P] only: what has a row for each query keeps P of them."""
        return replace(self._of_queries(lambda rows: gather_positions(rows, positions)), positions=positions)

    def _of_queries(self, choose: Callable) -> "Attention":
        """The same for some of the queries: choose takes their rows of what has a row for each, not one for all."""
        per_query = {name: getattr(self, name) for name in ("unseen", "query_numbers", "divisor")}
        rows = {name: rows for name, rows in per_query.items() if rows is not None and rows.shape[1] > 1}
        return replace(self, **{name: choose(tensor) for name, tensor in rows.items()})

    def mask(self) -> torch.Tensor:
        """True where a query may not see a key, [B, 1 or T, T]."""
        return self.unseen if self.query_numbers is None else self.query_numbers != self.key_numbers

    def parts(self, queries: int, distances: torch.Tensor | None) -> list[tuple[slice, "Attention"]]:
        """Runs of queries, and how each meets the keys: one of all, or of a long row QUERIES at a time."""
        if queries <= LONG or distances is not None:
            return [(slice(queries), self)]
        runs = [slice(start, start + QUERIES) for start in range(0, queries, QUERIES)]
        return [(run, self._of_queries(lambda rows, run=run: rows[:, run])) for run in runs]

    def bias(self, distances: torch.Tensor) -> torch.Tensor:
        """[T, T], or [B, P, T], from the bias of each distance [2T-1]."""
        table = toeplitz(distances)
        return table if self.positions is None else table[self.positions]

    def heads(
        self, base: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """base [B, T, D] before its activation -> query, key [B, T or P, D] in base's dtype, computed in fp32."""
        query, key = rotate(affine_heads(F.silu(base), scale, offset), self.table, self.interleaved).unbind(-2)
        query, key = (query * self.query_scale).to(base.dtype), key if self.key_scale is None else key * self.key_scale
        query = query if self.positions is None else gather_positions(query, self.positions)
        return query, key.to(base.dtype)

    def scores(self, query: torch.Tensor, key: torch.Tensor, distances: torch.Tensor | None) -> torch.Tensor:
        """[B, T, T]: the softmax (summed in fp32 whatever dtype it stores), or the ReLU before it is squared.

        An unseen key has score -1e4, the originals' value, under softmax: a row that sees none is uniform, not NaN.
        """
        key = key.transpose(-1, -2)
        scores = query @ key if distances is None else torch.baddbmm(self.bias(distances).to(query.dtype), query, key)
        if self.softmax:
            return torch.softmax(scores.masked_fill_(self.mask(), -1e4), dim=-1)
        return F.relu_(scores.masked_fill_(self.mask(), 0))

    def weights(self, scores: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        """What multiplies the values: scores squared if need be, divided, times dropout's factors."""
        weights = scores if self.softmax else scores.square()
        if self.divisor is not None:
            weights.div_(self.divisor)
        return weights if keep is None else weights * keep

    def scores_gradient(self, gradient: torch.Tensor, scores: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        """Gradient of the weights, which it overwrites, -> gradient of what went into softmax or ReLU."""
        if keep is not None:
            gradient.mul_(keep)
        if self.softmax:
            return torch.ops.aten._softmax_backward_data(gradient, scores, -1, scores.dtype)
        if self.divisor is not None:
            gradient.div_(self.divisor)
        return gradient.mul_(scores).mul_(2)


def _joined(runs: list[torch.Tensor]) -> torch.Tensor:
    """Runs of queries [B, *, X] after one another."""
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim=1)


def _sum(total: torch.Tensor | None, term: torch.Tensor) -> torch.Tensor:
    """total + term, total None for 0; of two terms and more in fp32."""
    return term if total is None else widened(total).add_(term)


def _factors(probability: float, seed: int | None, device: torch.device) -> Callable:
    """What gives dropout's factors of scores, None for probability 0; with a seed those of run after run again."""
    if not probability:
        return lambda scores: None
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    return lambda scores: keep_factors(scores, probability, generator)


class GatedAttention(torch.autograd.Function):
    """(projected [B, T, 2E+D] before its activation, Wo, its bias, narrow parameters) -> output [B, T, H].

    Projected holds u, v and the base of queries and keys; distances [2T-1] is a bias per key minus query, or None.
    With attention.positions, the output is [B, P, H], u comes as gate [B, P, E] and projected is [B, T, E+D].
    Of a long row, which is taken in parts, scores and dropout's factors are made again in the backward pass, and so is
    projected if its source is told: input, weight and bias of a linear layer, whose gradients are not given here.
    """

    @staticmethod
    def forward(ctx, projected, gate, weight, bias, scale, offset, distances, attention: Attention, source=None):
        with torch.autocast(projected.device.type, enabled=False):
            u, v, base = parts(projected, gate, scale.shape[-1])
            query, key = attention.heads(base, scale, offset)
            runs, value = attention.parts(query.shape[1], distances), F.silu(v)
            ctx.seed = None if len(runs) == 1 or not attention.dropout else int(torch.randint(2**62, ()))
            factors, mixed = _factors(attention.dropout, ctx.seed, query.device), []
            for run, part in runs:
                scores = part.scores(query[:, run], key, distances)
                keep = factors(scores)
                mixed.append(part.weights(scores, keep) @ value)
            mixed = _joined(mixed)
            output = linear_in(F.silu(u).mul_(mixed), weight, bias)
        ctx.attention, ctx.dtype = attention, projected.dtype
        scores, keep = (scores, keep) if len(runs) == 1 else (None, None)
        if len(runs) > 1 and gate is None and source is not None:
            projected = None
        else:
            source = (None, None, None)
        ctx.save_for_backward(*source, projected, gate, mixed, scores, keep, weight, bias, scale, offset, distances)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        *source, projected, gate, mixed, scores, keep, weight, bias, scale, offset, distances = ctx.saved_tensors
        attention, narrow = ctx.attention, (scale, offset, distances)
        with torch.autocast(gradient.device.type, enabled=False):
            if projected is None:
                projected = linear_in(source[0].to(ctx.dtype), *source[1:])
            result, gate_result = torch.empty_like(projected), None if gate is None else torch.empty_like(gate)
            width = scale.shape[-1]
            u, v, base = parts(projected, gate, width)
            u_result, v_result, base_result = parts(result, gate_result, width)
            opened = F.silu(u)
            gradient, linear = through_linear(gradient, opened * mixed, weight, bias)
            silu_backward_into(gradient * mixed, u, grad_input=u_result)
            gradient.mul_(opened)  # of A v
            with torch.enable_grad():
                leaves = [None if t is None else t.detach().requires_grad_() for t in (base, *narrow)]
                outputs = list(attention.heads(*leaves[:3]))
            (query, key), value = (head.detach() for head in outputs), F.silu(v)
            value_gradient = key_gradient = None
            factors, query_gradients = _factors(attention.dropout, ctx.seed, gradient.device), []
            for run, part in attention.parts(gradient.shape[1], distances):
                if scores is None:
                    run_scores = part.scores(query[:, run], key, None)
                    run_keep = factors(run_scores)
                else:
                    run_scores, run_keep = scores, keep
                inner = gradient[:, run]
                weights = part.weights(run_scores, run_keep)
                value_gradient = _sum(value_gradient, torch.bmm(weights.transpose(-1, -2), inner))
                scores_gradient = inner @ value.transpose(-1, -2)
                scores_gradient = part.scores_gradient(scores_gradient, run_scores, run_keep)
                query_gradients.append(scores_gradient @ key)
                key_gradient = _sum(key_gradient, torch.bmm(scores_gradient.transpose(-1, -2), query[:, run]))
            silu_backward_into(value_gradient.to(v.dtype), v, grad_input=v_result)
            gradients = [_joined(query_gradients), key_gradient.to(key.dtype)]
            if leaves[3] is not None:
                with torch.enable_grad():
                    outputs.append(attention.bias(leaves[3]))
                gradients.append(scores_gradient.sum_to_size(outputs[2].shape).to(leaves[3].dtype))
            narrow = iter(torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf is not None], gradients))
            base_gradient, *narrow = [None if leaf is None else next(narrow) for leaf in leaves]
            base_result.copy_(base_gradient)
        return result, gate_result, *linear, *narrow, None, None


def laplace(scores: torch.Tensor) -> torch.Tensor:
    """MEGA's smooth stand-in for squared ReLU (Ma et al. 2022, arXiv 2209.10655, equation 17)."""
    return torch.erf((scores - math.sqrt(0.5)).mul_(math.sqrt(2 * math.pi))).add_(1).mul_(0.5)


def laplace_slope(scores: torch.Tensor) -> torch.Tensor:
    """Derivative of `laplace`: the normal density of mean sqrt(1/2) and variance 1/(4 pi)."""
    return (scores - math.sqrt(0.5)).square_().mul_(-2 * math.pi).exp_().mul_(math.sqrt(2))


@dataclass(frozen=True)
class ChunkAttention:
    """How the groups of every layer attend, to themselves squared and to each other linearly, in one forward pass."""

    table: torch.Tensor  # of `rotate`
    group: int  # G, at most the length of the row
    groups: int  # N
    scales: torch.Tensor  # of quadratic and linear queries, quadratic and linear keys, [4, 1]
    key_scale: torch.Tensor  # besides, of linear keys, [B or 1, T or 1, 1]; 0 at padding
    unseen: torch.Tensor | None  # [B, T], true at keys to skip
    causal: bool
    per_group: bool  # linear attention stays inside the group
    laplace: bool
    dropout: float = 0.0

    def grouped(self, tensor: torch.Tensor) -> torch.Tensor:
        """[B, T, X] -> [B N, G, X], zeros after the last token."""
        batch, length, width = tensor.shape
        padding = self.groups * self.group - length
        whole = isinstance(padding, int) and not padding  # padding by nothing would copy
        padded = tensor if whole else F.pad(tensor, (0, 0, 0, padding))
        return padded.reshape(batch * self.groups, self.group, width)

    def joined(self, tensor: torch.Tensor, batch: int) -> torch.Tensor:
        """[B N, G, X] -> [B, N G, X]. No -1 among the sizes: a compiler would take seconds to find out what it is."""
        return tensor.view(batch, self.groups * self.group, tensor.shape[-1])

    def ungrouped(self, tensor: torch.Tensor, batch: int, length: int) -> torch.Tensor:
        """[B N, G, X] -> [B, T, X]."""
        return self.joined(tensor, batch)[:, :length]

    def sharing(self, tensor: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """[B N, G, X], with the groups of a row joined if they share one context."""
        return tensor if self.causal or self.per_group else self.joined(tensor, context.shape[0])

    def heads(self, base: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """base [B, T, D] before its activation -> quadratic and linear query, quadratic and linear key [B N, G, D]."""
        heads = affine_heads(F.silu(base), scale * self.scales, offset * self.scales)
        return self.separate(rotate(heads, self.table, interleaved=True), base.dtype)

    def separate(self, heads: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """heads [B, T, 4, D], times their scales -> each [B N, G, D] in dtype."""
        *others, lin_key = heads.unbind(-2)
        return tuple(self.grouped(head.to(dtype)) for head in (*others, lin_key * self.key_scale))

    def scores(self, query: torch.Tensor, key: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """[B N, G, G]; after ReLU unless laplace."""
        scores = torch.baddbmm(toeplitz(distances).to(query.dtype), query, key.transpose(-1, -2))
        return scores if self.laplace else F.relu_(scores)

    def hide(self, weights: torch.Tensor) -> torch.Tensor:
        """Zeroes, in place, what must not be seen."""
        if self.unseen is not None:
            batch, length = self.unseen.shape
            unseen = F.pad(self.unseen, (0, self.groups * self.group - length), value=True)
            weights.masked_fill_(unseen.reshape(batch * self.groups, 1, self.group), 0)
        return weights.tril_() if self.causal else weights

    def weights(self, scores: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        """What multiplies the values inside a group; keep holds dropout's factors."""
        weights = self.hide(laplace(scores) if self.laplace else scores.square())
        return weights if keep is None else weights.mul_(keep)

    def scores_gradient(self, gradient: torch.Tensor, scores: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        """Gradient of the weights, which it overwrites, -> gradient of the scores before ReLU."""
        if keep is not None:
            gradient.mul_(keep)
        self.hide(gradient)
        return gradient.mul_(laplace_slope(scores)) if self.laplace else gradient.mul_(scores).mul_(2)

    def context(self, key: torch.Tensor, value: torch.Tensor, batch: int) -> torch.Tensor:
        """What linear queries read: sum of key^T value over all groups [B, D, E], or for each group [B N, D, E]."""
        if not self.causal and not self.per_group:
            return self.joined(key, batch).transpose(-1, -2) @ self.joined(value, batch)
        sums = key.transpose(-1, -2) @ value
        if not self.causal:
            return sums
        sums = sums.view(batch, self.groups, *sums.shape[1:])
        before = F.pad(sums[:, :-1].cumsum(1), (0, 0, 0, 0, 1, 0))  # a token reads strictly earlier groups
        return before.to(sums.dtype).flatten(0, 1)

    def add_linear(self, mixed: torch.Tensor, query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Adds query context to mixed [B N, G, E], in place; the groups of a row may share one context."""
        self.sharing(mixed, context).baddbmm_(self.sharing(query, context), context)
        return mixed


class MixedChunkAttention(torch.autograd.Function):
    """(v and gate [B, T, 2E], base [B, T, D], all before their activation, Wo, its bias, narrow parameters) -> output.

    With positions [B, P], the output is [B, P, H], the gate comes by itself, [B, P, E], and hidden is v alone.
    distances [2G-1] is the bias per key minus query.
    """

    @staticmethod
    def forward(ctx, hidden, gate, base, weight, bias, scale, offset, distances, positions, attention: ChunkAttention):
        batch, length, _ = hidden.shape
        with torch.autocast(hidden.device.type, enabled=False):
            v, u = (hidden, gate) if positions is not None else hidden.chunk(2, dim=-1)
            quad_query, lin_query, quad_key, lin_key = attention.heads(base, scale, offset)
            value = attention.grouped(F.silu(v))
            scores = attention.scores(quad_query, quad_key, distances)
            keep = keep_factors(scores, attention.dropout) if attention.dropout else None
            mixed = attention.weights(scores, keep) @ value
            attention.add_linear(mixed, lin_query, attention.context(lin_key, value, batch))
            mixed = attention.ungrouped(mixed, batch, length)
            mixed = mixed if positions is None else gather_positions(mixed, positions)
            output = linear_in(F.silu(u).mul_(mixed), weight, bias)
        ctx.save_for_backward(
            hidden, gate, base, mixed, scores, keep, weight, bias, scale, offset, distances, positions
        )
        ctx.attention = attention
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        hidden, gate, base, mixed, scores, keep, weight, bias, *narrow = ctx.saved_tensors
        scale, offset, distances, positions = narrow
        attention, (batch, length, _) = ctx.attention, hidden.shape
        with torch.autocast(hidden.device.type, enabled=False):
            result, gate_result = torch.empty_like(hidden), None if gate is None else torch.empty_like(gate)
            v, u = (hidden, gate) if positions is not None else hidden.chunk(2, dim=-1)
            v_result, u_result = (result, gate_result) if positions is not None else result.chunk(2, dim=-1)
            opened = F.silu(u)
            gradient, linear = through_linear(gradient, opened * mixed, weight, bias)
            silu_backward_into(gradient * mixed, u, grad_input=u_result)
            gradient.mul_(opened)  # of the mixed values
            gradient = gradient if positions is None else scatter_positions(gradient, positions, length)
            gradient = attention.grouped(gradient)  # [B N, G, E]
            weights = attention.weights(scores, keep)
            with torch.enable_grad():
                leaves = [tensor.detach().requires_grad_() for tensor in (base, scale, offset, distances)]
                quad_query, lin_query, quad_key, lin_key = attention.heads(*leaves[:3])
                key_leaf = lin_key.detach().requires_grad_()
                value = attention.grouped(F.silu(v)).requires_grad_()
                context = attention.context(key_leaf, value, batch)
                table = toeplitz(leaves[3])
            linear_gradient = attention.sharing(gradient, context)
            context_gradient = attention.sharing(lin_query.detach(), context).transpose(-1, -2) @ linear_gradient
            query_gradient = (linear_gradient @ context.detach().transpose(-1, -2)).view(lin_query.shape)
            key_gradient, value_gradient = torch.autograd.grad(context, (key_leaf, value), context_gradient)
            value_gradient.baddbmm_(weights.transpose(-1, -2), gradient)
            silu_backward_into(attention.ungrouped(value_gradient, batch, length), v, grad_input=v_result)
            scores_gradient = gradient @ value.detach().transpose(-1, -2)
            scores_gradient = attention.scores_gradient(scores_gradient, scores, keep)
            base_gradient, *narrow = torch.autograd.grad(
                (quad_query, lin_query, quad_key, lin_key, table),
                leaves,
                (
                    scores_gradient @ quad_key.detach(),
                    query_gradient,
                    scores_gradient.transpose(-1, -2) @ quad_query.detach(),
                    key_gradient,
                    scores_gradient.sum(0).to(table.dtype),
                ),
            )
        return result, gate_result, base_gradient, *linear, *narrow, None, None


def parts(
    projected: torch.Tensor, gate: torch.Tensor | None, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """u, v and the base, this wide, of queries and keys: three parts of projected, or the gate and two parts."""
    if gate is not None:
        return gate, projected[..., :-width], projected[..., -width:]
    expanded = (projected.shape[-1] - width) // 2
    return projected.split((expanded, expanded, width), dim=-1)


def linear_in(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """inputs W^T + bias in the dtype of inputs."""
    return F.linear(inputs, weight.to(inputs.dtype), None if bias is None else bias.to(inputs.dtype))


def through_linear(gradient, inputs, weight, bias) -> tuple[torch.Tensor, tuple]:
    """Gradient of `linear_in`'s output -> of its inputs, (of weight, of bias)."""
    return gradient @ weight.to(gradient.dtype), linear_gradients(gradient, inputs, weight.dtype, bias is not None)
