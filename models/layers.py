"""Norms, position tables and rotary embeddings that the GAU family shares, all computed in fp32.

Sources: GAU-alpha (ZhuiyiTechnology/GAU-alpha, JunnYu/GAU-alpha-pytorch), FLASH (Hua et al. 2022, arXiv 2202.10447;
JunnYu/FLASHQuad_pytorch, lucidrains/FLASH-pytorch), RoPE (Su et al. 2021, arXiv 2104.09864). Tables are functions of
the length and are made anew in each forward pass: no length limit, and nothing that loading could leave unfilled.
Letters: B batch, T tokens, H hidden_size, D query/key width.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

RECORDING = "transformers.utils.output_capturing"


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """In fp32 if it is narrower."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def records_gradients() -> bool:
    """Whether a torch.autograd.Function may run: gradients are wanted, and nothing follows each operation.

    An exporter cannot look inside; a compiler fuses the plain formula, forward and backward, better than by hand.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def is_exporting() -> bool:
    """Whether a program for lengths that are open is being made, and not one for those of a training run.

    torch 2.11 says that it exports under torch.compile, too; where dynamo traces, it compiles.
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def inverse_rms(x: torch.Tensor, eps: float, clamped: bool) -> torch.Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last axis [..., 1], or 1 / max(sqrt(mean(x^2)), eps) when clamped."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    return (mean_square.clamp(min=eps**2) if clamped else mean_square + eps).rsqrt()


class UnitNorm(torch.autograd.Function):
    """`unit_norm`, one [.., H] tensor of which is kept for the backward pass."""

    @staticmethod
    def forward(ctx, hidden, scale, eps: float, clamped: bool, dtype: torch.dtype):
        x = widened(hidden)
        inverse = inverse_rms(x, eps, clamped)
        result = torch.empty(x.shape, dtype=dtype, device=x.device)
        torch.mul(x, inverse if scale is None else inverse * widened(scale), out=result)
        # Without a scale the result is itself the normalised input, which the next layer keeps anyway.
        ctx.save_for_backward(result if scale is None else hidden, inverse, scale)
        ctx.eps = eps if clamped else None
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        kept, inverse, scale = ctx.saved_tensors
        gradient = widened(gradient)
        normal = widened(kept) if scale is None else kept * inverse
        product = gradient * normal
        inner = product.sum(-1, keepdim=True)
        scale_gradient = None if scale is None else inner.sum().reshape(scale.shape).to(scale.dtype)
        if ctx.eps is not None:  # a clamped row is divided by a constant
            inner = inner * (inverse < 1 / ctx.eps)
        result = torch.addcmul(gradient, normal, inner.div_(-normal.shape[-1]), out=product)
        result.mul_(inverse if scale is None else inverse * widened(scale))
        return result.to(kept.dtype), scale_gradient, None, None, None


def unit_norm(
    hidden: torch.Tensor, scale: torch.Tensor | None, eps: float, clamped: bool, dtype: torch.dtype
) -> torch.Tensor:
    """scale * x / rms(x) over the last axis, computed in fp32; scale is one number, or None for 1."""
    if records_gradients():
        return UnitNorm.apply(hidden, scale, eps, clamped, dtype)
    x = widened(hidden)
    inverse = inverse_rms(x, eps, clamped)
    return (x * (inverse if scale is None else inverse * widened(scale))).to(dtype)


def compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    """The dtype of matrix products of hidden: autocast's where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def rms_norm(hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, without weights; fp32 inside, dtype kept."""
    return unit_norm(hidden, None, eps, clamped=False, dtype=hidden.dtype)


class ScaleNorm(nn.Module):
    """FLASHQuad's norm: x / sqrt(mean(x^2) + eps) times one learned scalar (parameter `scala`, as published)."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.scala = nn.Parameter(torch.ones(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return unit_norm(hidden, self.scala, self.eps, clamped=False, dtype=compute_dtype(hidden))


class ClampedScaleNorm(nn.Module):
    """FLASH's norm: x / max(|x| / sqrt(H), eps) times one learned scalar (parameter `g`, as published)."""

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return unit_norm(hidden, self.g, self.eps, clamped=True, dtype=compute_dtype(hidden))


def position_angles(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Angles t * 10000^(-2i/dim) of integer positions [...], as fp32 [..., dim/2] in radians."""
    frequencies = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32).mul(-1 / dim)
    return positions.float().unsqueeze(-1) * torch.pow(10000.0, frequencies)


def sinusoid_table(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoidal position embedding: all sines, then all cosines; fp32 [..., dim]."""
    angles = position_angles(positions, dim)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def rotary_table(positions: torch.Tensor, dim: int, width: int | None = None) -> torch.Tensor:
    """cos and sin for `rotate`, fp32 [..., 1, width/2, 2]; the axis of length one runs over heads.

    Only the first dim of width channels turn; width is dim unless given.
    """
    angles = F.pad(position_angles(positions, dim), (0, ((width or dim) - dim) // 2)).unsqueeze(-2)
    return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))


def rotate(heads: torch.Tensor, table: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Turns the channels of fp32 `heads` [..., heads, D] by their position's angle.

    Pairs are (2i, 2i+1) when `interleaved`, else (i, i + D/2), and always come back side by side: every use is a dot
    product of two tensors that went through here, which does not see the order of channels. As complex numbers, since
    one product of these is one pass over memory forward and one backward; a compiler has no code for them.
    """
    if torch.compiler.is_compiling():
        real, imaginary = heads.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else heads.chunk(2, -1)
        cos, sin = table.unbind(-1)
        return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1).flatten(-2)
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2))) if interleaved else torch.complex(*heads.chunk(2, -1))
    return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2)


def split_scale(scale: float) -> tuple[float, float]:
    """Factors of queries and of keys whose product is the scale of their scores: neither leaves the numbers of fp16.

    The keys' is a power of two, which rounds nothing: fp32 scores are what they are with one factor, bit for bit.
    """
    keys = 2.0 ** (math.frexp(scale)[1] // 2)
    return scale / keys, keys


def affine_heads(base: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """base [..., D] times each row of weight [heads, D] plus bias [heads, D]; at least fp32."""
    heads = widened(base).unsqueeze(-2) * widened(weight)
    return heads if bias is None else heads + widened(bias)


def squared_relu(scores: torch.Tensor) -> torch.Tensor:
    """relu(scores)^2, overwriting scores; as a product, since autocast on a GPU would compute a power in fp32."""
    scores = F.relu_(scores)
    return scores * scores


def toeplitz(offsets: torch.Tensor) -> torch.Tensor:
    """[T, T] matrix whose entry (i, j) is offsets[j - i + T - 1]; offsets [2T-1]."""
    length = (offsets.shape[0] + 1) // 2
    if torch.compiler.is_compiling():  # or exported, where unfold makes a constant of a length that is open
        columns = 2 * length - 1
        rows = F.pad(offsets, (0, 1)).expand(length, -1).flatten()[: length * columns]  # each begins one earlier
        return rows.view(length, columns)[:, length - 1 :]
    return offsets.unfold(0, length, 1).flip(0)


def keep_factors(like: torch.Tensor, probability: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Dropout's factors, of like's shape and dtype: 0 with probability, else 1 / (1 - probability).

    On CPU integers of 15 bits decide, by arithmetic alone: bernoulli_ draws one number after the other, which takes
    longer than the layer's activations, and a boolean mask is converted again each time that it is used.
    """
    if like.device.type != "cpu":
        return torch.empty_like(like).bernoulli_(1 - probability, generator=generator).div_(1 - probability)
    dropped = round(probability * 2**15)
    numbers = torch.empty(-(-like.numel() // 4), dtype=torch.int64)
    numbers = numbers.random_(-(2**63), None, generator=generator).view(torch.int16)
    # From -2^14 to 2^14 - 1; the sign of their distance from the border is shifted down to -1 (kept) or 0.
    keep = numbers.bitwise_right_shift_(1).neg_().add_(dropped - 2**14 - 1).bitwise_right_shift_(15)
    return keep[: like.numel()].view(like.shape).to(like.dtype).mul_(-(2**15) / (2**15 - dropped))


def dropout(hidden: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Inverted dropout of probability below 1, rounded to 1/32768 on CPU; torch's own elsewhere and when compiled."""
    if not training or not probability:
        return hidden
    if hidden.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(hidden, probability)
    return hidden * keep_factors(hidden, probability)


def turned(matrix: torch.Tensor, ones: bool = False) -> torch.Tensor:
    """[N, C] -> [C, N] in memory, with a last row of ones if asked for; by blocks, whose rows stay in the cache."""
    rows, columns = matrix.shape
    result = matrix.new_empty(columns + ones, rows)
    for start in range(0, rows, 256):
        result[:columns, start : start + 256] = matrix[start : start + 256].T
    result[columns:] = 1
    return result


def linear_gradients(
    gradient: torch.Tensor, inputs: torch.Tensor, dtype: torch.dtype, bias: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients [out, in] and, with bias, [out], in dtype, of a linear layer's; gradient [..., out], inputs [..., in].

    A CPU multiplies half-precision matrices at half speed when the left one is transposed, so that the narrower one
    is turned in memory before, and takes longer to sum the columns of a wide matrix than to multiply by one more row.
    """
    gradient, inputs = gradient.flatten(0, -2), inputs.flatten(0, -2)
    if gradient.device.type != "cpu" or gradient.dtype not in (torch.bfloat16, torch.float16):
        return (gradient.T @ inputs).to(dtype), gradient.sum(0).to(dtype) if bias else None
    if gradient.shape[1] <= inputs.shape[1]:
        left = turned(gradient)
        return (left @ inputs).to(dtype), left.sum(1).to(dtype) if bias else None
    product = turned(inputs, ones=bias) @ gradient
    weight_gradient = torch.empty(gradient.shape[1], inputs.shape[1], dtype=dtype).copy_(product[: inputs.shape[1]].T)
    return weight_gradient, product[-1].to(dtype) if bias else None


class Product(torch.autograd.Function):
    """inputs W^T + bias, computed in dtype; keeps the inputs as they came, which something else often keeps too."""

    @staticmethod
    def forward(ctx, inputs, weight, bias, dtype: torch.dtype):
        ctx.save_for_backward(inputs, weight)
        return F.linear(inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        input_gradient = (gradient @ weight.to(gradient.dtype)).to(inputs.dtype) if ctx.needs_input_grad[0] else None
        inputs = inputs.to(gradient.dtype)
        return input_gradient, *linear_gradients(gradient, inputs, weight.dtype, ctx.needs_input_grad[2]), None


def is_plain(module: nn.Module) -> bool:
    """Whether what a module's call does can be had from its parameters: torch's own class, or transformers'.

    Not so under a wrapper (an adapter), a parametrisation, a hook, a forward of its own or a parameter of another
    kind (quantised, cut over devices): then only the call itself says what comes out. The hooks with which
    transformers records attentions change nothing.
    """
    origin = type(module).__module__
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    hooks = (getattr(hook, "__module__", None) != RECORDING for kind in kinds if kind for hook in kind.values())
    return (
        origin.startswith(("torch.nn.modules.", "transformers.models.", "transformers.act"))
        and not any(hooks)
        and "forward" not in vars(module)
        and all(type(p) in (nn.Parameter, torch.Tensor) for p in module.parameters(recurse=False))
    )


def may_be_fast(layer: nn.Module, *linears: nn.Module) -> bool:
    """Whether a layer may take the backward pass written by hand (gated.py), which reads the weights of its linears.

    In training alone, unless the config's attn_implementation is eager, and where every linear is as it was made.
    """
    eager = layer.config._attn_implementation == "eager"
    return layer.training and records_gradients() and not eager and all(is_plain(linear) for linear in linears)


def segment_vectors(table: nn.Embedding, token_type_ids: torch.Tensor | None) -> torch.Tensor:
    """Token type embeddings [B, T, H], or those of type 0 in a shape that broadcasts when no types are given."""
    if token_type_ids is None:
        token_type_ids = torch.zeros(1, 1, dtype=torch.int64, device=next(table.parameters()).device)
    return table(token_type_ids)


def product(linear: nn.Linear, inputs: torch.Tensor, outputs: slice | None = None) -> torch.Tensor:
    """All or some outputs of a linear layer that is_plain; the backward pass is faster on a CPU under autocast."""
    weight, bias = linear.weight, linear.bias
    if outputs is not None:
        weight, bias = weight[outputs], None if bias is None else bias[outputs]
    return Product.apply(inputs, weight, bias, compute_dtype(inputs))


def gather_positions(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """hidden [B, T, H] at positions [B, P] int64 -> [B, P, H], without a host sync."""
    batch, length, width = hidden.shape
    offsets = torch.arange(batch, device=hidden.device).mul_(length).unsqueeze(-1)
    rows = hidden.reshape(batch * length, width).index_select(0, (positions + offsets).reshape(-1))
    return rows.view(batch, -1, width)


def scatter_positions(rows: torch.Tensor, positions: torch.Tensor, length: int) -> torch.Tensor:
    """The gradient of `gather_positions`: rows [B, P, H] added up at positions [B, P] -> [B, length, H]."""
    batch, _, width = rows.shape
    offsets = torch.arange(batch, device=rows.device).mul_(length).unsqueeze(-1)
    hidden = rows.new_zeros(batch * length, width)
    return hidden.index_add_(0, (positions + offsets).reshape(-1), rows.reshape(-1, width)).view(batch, length, width)


def project(
    linear: nn.Linear, hidden: torch.Tensor, positions: torch.Tensor | None, gate: slice, others: slice
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All outputs [B, T, X] and None; with positions [B, P], the others [B, T, Y] and the gate's [B, P, E] alone."""
    if positions is None:
        return product(linear, hidden), None
    return product(linear, hidden, others), product(linear, gather_positions(hidden, positions), gate)
