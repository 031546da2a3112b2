"""Gated attention with a backward pass written by hand: what is wide is kept once, what is narrow is computed again.

output = (silu(u) * A silu(v)) Wo^T of the gated attention unit (Hua et al. 2022, arXiv 2202.10447, sections 3 and 4).
Autograd would keep u, v, their activations, products and concatenated gradients, each [B, T, E] or wider. Here the
projection before its activation, A v and A are all that is kept; activations are computed again and gradients go
straight into one buffer. Queries and keys, D wide, run through autograd a second time in the backward pass.
Letters: B batch, T tokens, H hidden_size, E expanded width, D query/key width.
"""

from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .layers import affine_heads, keep_mask, rotate, toeplitz

silu_backward_into = torch.ops.aten.silu_backward.grad_input


@dataclass(frozen=True)
class Attention:
    """How queries meet keys in every layer of one forward pass."""

    tables: tuple[torch.Tensor, torch.Tensor]  # of `rotate`
    interleaved: bool  # of `rotate`
    query_scale: torch.Tensor | float  # every factor of the scores, so that none is [T, T]; [B, 1 or T, 1] or a number
    unseen: torch.Tensor  # [B, 1 or T, T], true where a query may not see a key
    softmax: bool  # else squared ReLU
    divisor: torch.Tensor | None = None  # of the squared ReLU, [B, 1 or T, 1]
    dropout: float = 0.0

    def heads(
        self, base: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """base [B, T, D] before its activation -> query, key [B, T, D] in base's dtype, computed in fp32."""
        heads = rotate(affine_heads(F.silu(base), scale, offset), self.tables, self.interleaved)
        return (heads[..., 0, :] * self.query_scale).to(base.dtype), heads[..., 1, :].to(base.dtype)

    def scores(self, query: torch.Tensor, key: torch.Tensor, distances: torch.Tensor | None) -> torch.Tensor:
        """[B, T, T]: the softmax (summed in fp32 whatever dtype it stores), or the ReLU before it is squared.

        An unseen key has score -1e4, the originals' value, under softmax: a row that sees none is uniform, not NaN.
        """
        key = key.transpose(-1, -2)
        scores = query @ key if distances is None else torch.baddbmm(toeplitz(distances).to(query.dtype), query, key)
        if self.softmax:
            return torch.softmax(scores.masked_fill_(self.unseen, -1e4), dim=-1)
        return F.relu_(scores.masked_fill_(self.unseen, 0))

    def weights(self, scores: torch.Tensor, keep: torch.Tensor | None, factor: float) -> torch.Tensor:
        """What multiplies the values: scores squared if need be, divided, dropped out; keep is dropout's mask."""
        weights = scores if self.softmax else scores.square()
        if self.divisor is not None:
            weights.div_(self.divisor)
        return weights if keep is None else (weights * keep).mul_(factor)

    def scores_gradient(
        self, gradient: torch.Tensor, scores: torch.Tensor, keep: torch.Tensor | None, factor: float
    ) -> torch.Tensor:
        """Gradient of the weights, which it overwrites, -> gradient of what went into softmax or ReLU."""
        if keep is not None:
            gradient.mul_(keep).mul_(factor)
        if self.softmax:
            return torch.ops.aten._softmax_backward_data(gradient, scores, -1, scores.dtype).masked_fill_(
                self.unseen, 0
            )
        if self.divisor is not None:
            gradient.div_(self.divisor)
        return gradient.mul_(scores).mul_(2)


class GatedAttention(torch.autograd.Function):
    """(projected [B, T, 2E+D] before its activation, Wo, its bias, narrow parameters) -> output [B, T, H], weights.

    Projected holds u, v and the base of queries and keys; distances [2T-1] is a bias per key minus query, or None.
    The weights [B, T, T] are for looking at and carry no gradient; they are None unless asked for.
    """

    @staticmethod
    def forward(ctx, projected, weight, bias, scale, offset, distances, attention: Attention, training, ask_weights):
        with torch.autocast(projected.device.type, enabled=False):
            u, v, base = projected.split(widths(weight, scale), dim=-1)
            scores = attention.scores(*attention.heads(base, scale, offset), distances)
            keep, factor = keep_mask(scores, attention.dropout) if training and attention.dropout else (None, 1.0)
            weights = attention.weights(scores, keep, factor)
            mixed = weights @ F.silu(v)
            gated = F.silu(u).mul_(mixed)
            output = F.linear(gated, weight.to(gated.dtype), None if bias is None else bias.to(gated.dtype))
        ctx.save_for_backward(projected, mixed, scores, keep, weight, bias, scale, offset, distances)
        ctx.attention, ctx.factor = attention, factor
        if not ask_weights:
            return output, None
        ctx.mark_non_differentiable(weights)
        return output, weights.clone() if weights is scores else weights

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):
        projected, mixed, scores, keep, weight, bias, scale, offset, distances = ctx.saved_tensors
        attention = ctx.attention
        with torch.autocast(projected.device.type, enabled=False):
            result = torch.empty_like(projected)
            u, v, base = projected.split(widths(weight, scale), dim=-1)
            u_result, v_result, base_result = result.split(widths(weight, scale), dim=-1)
            gate = F.silu(u)
            flat = gradient.flatten(0, -2)
            weight_gradient = (flat.T @ (gate * mixed).flatten(0, -2)).to(weight.dtype)
            bias_gradient = None if bias is None else flat.sum(0).to(bias.dtype)
            gradient = gradient @ weight.to(gradient.dtype)  # of the gated product, [B, T, E]
            silu_backward_into(gradient * mixed, u, grad_input=u_result)
            gradient.mul_(gate)  # of A v
            weights = attention.weights(scores, keep, ctx.factor)
            silu_backward_into(weights.transpose(-1, -2) @ gradient, v, grad_input=v_result)
            scores_gradient = gradient @ F.silu(v).transpose(-1, -2)
            scores_gradient = attention.scores_gradient(scores_gradient, scores, keep, ctx.factor)
            with torch.enable_grad():
                leaves = [None if t is None else t.detach().requires_grad_() for t in (base, scale, offset, distances)]
                query, key = attention.heads(*leaves[:3])
                outputs, gradients = [query, key], [scores_gradient @ key, scores_gradient.transpose(-1, -2) @ query]
                if distances is not None:
                    outputs.append(toeplitz(leaves[3]))
                    gradients.append(scores_gradient.sum(0).to(distances.dtype))
            found = iter(torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf is not None], gradients))
            narrow = [None if leaf is None else next(found) for leaf in leaves]
            base_result.copy_(narrow[0])
        return result, weight_gradient, bias_gradient, *narrow[1:], None, None, None


def widths(weight: torch.Tensor, scale: torch.Tensor) -> tuple[int, int, int]:
    """Widths of u, v and base, by Wo [H, E] and the heads' scale [2, D]."""
    return weight.shape[1], weight.shape[1], scale.shape[-1]
