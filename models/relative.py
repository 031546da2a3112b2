"""Attention in a causal window with Transformer-XL's relative positions, its memories, and its cache for decoding.

Sources: Transformer-XL (Dai et al. 2019, arXiv 1901.02860, section 3.3 and appendix B). Letters: B batch, Q queries,
M remembered keys, K = M + Q keys, N heads, D width of a head, H hidden_size, W attention_window; the distance of key
j from query i is M + i - j.
"""

from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from .layers import dropout, is_exporting

ROWS = 256  # queries at a time: scores then take memory for their window, not for the whole sequence
ALIGNED = 8  # columns of scores come in multiples of it where they can, or a GPU copies each matrix before a product

# transformers 5.24 renamed past_key_values, as generate(), gradient checkpointing and outputs call keys and values, to
# cache; each release knows its own name alone. Callers may give either.
CACHE_NAMES = ("cache", "past_key_values")
CACHE_NAME = next(field.name for field in fields(BaseModelOutputWithPast) if field.name in CACHE_NAMES)


def named_cache(cache: DynamicCache | None) -> dict:
    """The cache by the name that the installed transformers has for it, as keyword argument."""
    return {CACHE_NAME: cache}


def given_cache(cache: DynamicCache | None, past_key_values: DynamicCache | None) -> DynamicCache | None:
    """The cache, by whichever of its two names it was given; ValueError when by both."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one argument; leave past_key_values out")
    return past_key_values if cache is None else cache


@dataclass(frozen=True)
class Block:
    """A run of queries, the keys that any of them may see, and the mask of pairs, None where all are seen.

    order: for one query whose keys lie in another order, the place of each in the order of distances, farthest first.
    """

    queries: slice
    keys: slice
    distances: int  # 0, 1, .. of the keys from the queries that scores by distance are computed for
    visible: torch.Tensor | None  # bool [B or 1, 1, queries, keys]
    order: torch.Tensor | None = None  # int64 [keys]


@dataclass(frozen=True)
class Band:
    """The pairs of query and key that may see each other, in blocks of queries."""

    blocks: tuple[Block, ...]
    longest: int  # distances that a table must have


def make_band(
    length: int, remembered: int, window: int, attention_mask: torch.Tensor | None, device: torch.device
) -> Band:
    """The causal window over M remembered and Q new tokens, narrowed by a mask [B, Q or more] or [B, Q, K or more].

    A query always sees itself, so that one without any other key (padding) stays finite.
    """
    keys = remembered + length
    if attention_mask is not None:
        if attention_mask.dim() not in (2, 3):
            raise ValueError(
                f"attention_mask must have shape [B, T] or [B, T, K], got {tuple(attention_mask.shape)}; "
                "pass 1 where a key may be seen"
            )
        attention_mask = attention_mask.bool()[..., -keys:]
        # A mask of the new tokens alone says nothing of the remembered ones, which were there.
        attention_mask = F.pad(attention_mask, (keys - attention_mask.shape[-1], 0), value=True)
    blocks, longest = [], 0
    exporting = is_exporting()  # a program of one block, whose sizes depend on no length
    for start in (0,) if exporting else range(0, length, ROWS):
        stop = length if exporting else min(start + ROWS, length)
        end, first = remembered + stop, 0 if exporting else max(0, remembered + start - window + 1)
        longest = max(longest, end - first)
        visible, masked = None, stop - start > 1 or attention_mask is not None
        if masked and not exporting:  # which hides what the first keys are beyond the window
            first = max(0, first - (first - end) % ALIGNED)
        distances = end - first if exporting else max(min(window, end - first), remembered + start - first + 1)
        distances = distances if exporting else min(end - first, distances + -distances % ALIGNED)
        span = slice(first, end)
        if masked:
            rows = torch.arange(remembered + start, end, device=device).unsqueeze(-1)
            distance = rows - torch.arange(span.start, span.stop, device=device)
            visible = (distance >= 0) & (distance < window)
            if attention_mask is not None:
                pairs = attention_mask.unsqueeze(1) if attention_mask.dim() == 2 else attention_mask[:, start:stop]
                visible = visible & pairs[..., span] | (distance == 0)
            visible = visible.view(-1, 1, *visible.shape[-2:])
        blocks.append(Block(slice(start, stop), span, distances, visible))
    return Band(tuple(blocks), max(longest, *(block.distances for block in blocks)))


def inverse_frequencies(width: int, device: torch.device | None = None) -> torch.Tensor:
    """10000^(-2t / width), fp32 [width / 2], in the order of operations that gives the published bits."""
    return 1 / 10000 ** (torch.arange(0, width, 2, device=device).float() / width)


def relative_table(length: int, width: int, dtype: str, device: torch.device) -> torch.Tensor:
    """Sines, then cosines, of distances length-1 .. 0 [length, width]; fp32, rounded at each step for float16.

    Distances are never rounded to bfloat16, in which only half of 768 of them differ.
    """
    rounded = (lambda x: x.half().float()) if dtype == "float16" else (lambda x: x)
    with torch.autocast(device.type, enabled=False):
        frequencies = rounded(inverse_frequencies(width, device))
        distances = torch.arange(length - 1, -1, -1, device=device).float()
        angles = rounded(distances.unsqueeze(-1) * frequencies)
        return rounded(torch.cat((angles.sin(), angles.cos()), dim=-1))


class Shift(torch.autograd.Function):
    """Row i of [.., Q, R] scores by distance (column m: distance R-1-m), moved: column j of [.., Q, K] is key j.

    Entry (i, j), of distance K-Q + i-j, comes from column j + R-1 - (K-Q) - i; what lies beyond the row, of keys after
    the query or R before it, is left undefined for the mask. In memory that is the same run of numbers read with rows
    one shorter, so forward is a view; K-Q < R <= K.
    """

    @staticmethod
    def forward(ctx, scores, keys: int):
        rows, distances = scores.shape[-2:]
        ctx.sizes = rows, distances, keys
        flat = scores.contiguous().flatten(-2)[..., distances - 1 - (keys - rows) :]
        return flat.as_strided((*scores.shape[:-2], rows, keys), (*flat.stride()[:-1], distances - 1, 1))

    @staticmethod
    def backward(ctx, gradient):
        rows, distances, keys = ctx.sizes
        # Read with rows one longer; what lies beyond a row here is masked, so that its gradient is zero.
        flat = F.pad(gradient.flatten(-2), (distances - 1 - (keys - rows), 0))
        shape = (*gradient.shape[:-2], rows, distances)
        return flat.as_strided(shape, (*flat.stride()[:-1], keys + 1, 1)).contiguous(), None


def shift(scores: torch.Tensor, keys: int) -> torch.Tensor:
    """`Shift`; for a compiler, or in an exported program, by rows that are made one longer and cut anew.

    Of ONNX no operation has strides, and torch 2.11's inductor reads a view by strides of a slice from another place.
    """
    if not torch.compiler.is_compiling():
        return Shift.apply(scores, keys)
    rows, distances = scores.shape[-2:]
    first = distances - 1 - (keys - rows)
    flat = F.pad(scores, (0, keys + 1 - distances)).flatten(-2)
    return flat[..., first : first + rows * keys].unflatten(-1, (rows, keys))


def attend(queries, keys, values, relative, biases, band: Band, rate: float) -> torch.Tensor:
    """softmax(((q + u) k + (q + v) r) / sqrt(D)) values, in the band; all [B, N, .., D], as is the result.

    relative [1, N, R, D] has the keys of distances R-1 .. 0, R at least band.longest, or is None; biases are u and v;
    rate is attention dropout's.
    """
    scale = queries.shape[-1] ** -0.5
    by_content = by_distance = queries
    mix = F.scaled_dot_product_attention
    if relative is not None:
        content_bias, distance_bias = (bias.to(queries.dtype).unsqueeze(1) for bias in biases)
        by_content, by_distance = queries + content_bias, (queries + distance_bias) * scale
        if torch.is_grad_enabled() and (queries.device.type == "cpu" or torch.compiler.is_compiling()):
            mix, keys, values, relative = _mix, keys.contiguous(), values.contiguous(), relative.contiguous()
        elif queries.shape[-2] == 1 and queries.device.type != "cpu":
            mix = _mix  # a fused kernel leaves most of a GPU idle where there is one query
    outputs = []
    for block in band.blocks:
        bias = block.visible
        if relative is not None:
            by_place = relative[:, :, -block.distances :].transpose(-1, -2)
            if block.queries.stop - block.queries.start > 1:
                bias = shift(by_distance[:, :, block.queries] @ by_place, block.keys.stop - block.keys.start)
            else:  # of all rows in one product, which reads the keys of distances once
                bias = (by_distance[:, :, block.queries].transpose(0, 2) @ by_place).transpose(0, 2)
                bias = bias if block.order is None else bias.index_select(-1, block.order)
            if block.visible is not None:
                bias = torch.where(block.visible, bias, -torch.inf)
        outputs.append(
            mix(
                by_content[:, :, block.queries],
                keys[:, :, block.keys],
                values[:, :, block.keys],
                attn_mask=bias,
                dropout_p=rate,
                scale=scale,
            )
        )
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _mix(queries, keys, values, attn_mask, dropout_p: float, scale: float) -> torch.Tensor:
    """scaled_dot_product_attention where every query sees a key, in fewer passes when the mask needs its gradient.

    So does a compiler, for which `shift` and the mask cost none; fused kernels that take such a mask are slower.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = (queries * scale) @ keys.transpose(-1, -2)
        scores += attn_mask
        return dropout(scores.softmax(-1), dropout_p, training=True) @ values


def key_memory(mems, states: list[torch.Tensor], mem_len: int) -> tuple[torch.Tensor, ...]:
    """The last mem_len of memory [B, M, H] and new states [B, Q, H] of each layer, detached; () when mem_len is 0."""
    if not mem_len:
        return ()
    joined = states if not mems else [torch.cat(pair, dim=1) for pair in zip(mems, states, strict=True)]
    return tuple(state[:, -mem_len:].detach() for state in joined)


class WindowLayer(DynamicSlidingWindowLayer):
    """One layer's last W-1 keys and values, and its keys of relative positions, which depend on the weights alone.

    transformers' own class copies the window for each token. This one appends in place to a buffer of twice the size,
    and takes a new buffer when that is full or when the tensors were replaced (beams reordered, rows selected).
    """

    def __init__(self, sliding_window: int):
        super().__init__(sliding_window=sliding_window)
        self.relative: torch.Tensor | None = None
        self.buffers: tuple[torch.Tensor, ...] = ()
        self.ends: tuple[torch.Tensor | None, ...] = (None, None)  # what keys and values were when last set here
        self.stop = 0

    @classmethod
    def fit(cls, cache: DynamicCache, config) -> DynamicCache:
        """The cache with layers of this class; ValueError when it is not empty and has others."""
        if not all(isinstance(layer, cls) for layer in cache.layers) or not cache.layers:
            if not isinstance(cache, DynamicCache) or cache.get_seq_length():
                raise ValueError(
                    f"the cache must be an empty DynamicCache or one that this model filled, got "
                    f"{type(cache).__name__}; leave it out"
                )
            cache.layers = [cls(config.attention_window) for _ in range(config.num_hidden_layers)]
        return cache

    @property
    def relative_length(self) -> int:
        return 0 if self.relative is None else self.relative.shape[-2]

    def keep_relative(self, relative: torch.Tensor | None) -> torch.Tensor:
        """The keys of relative positions [1, N, R, D]: the given ones, which are kept, or those kept before."""
        if relative is not None:
            self.relative = relative
        return self.relative

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if self.record_past or torch.is_grad_enabled():
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys = key_states[:, :, :0]
            self.values = value_states[:, :, :0]
        new, old = key_states.shape[-2], self.keys.shape[-2]
        fits = self.keys is self.ends[0] and self.values is self.ends[1] and self.stop + new <= self._room()
        if not fits:
            size = old + new + self.sliding_window
            self.buffers = tuple(
                torch.empty((*state.shape[:2], size, state.shape[3]), dtype=state.dtype, device=state.device)
                for state in (key_states, value_states)
            )
            for buffer, state in zip(self.buffers, (self.keys, self.values), strict=True):
                buffer[:, :, :old] = state
            self.stop = old
        first, last = self.stop - old, self.stop + new
        for buffer, state in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.stop : last] = state
        self.stop = last
        self.cumulative_length += new
        kept = slice(max(first, last - self.sliding_window + 1), last)
        self.keys, self.values = self.ends = tuple(buffer[:, :, kept] for buffer in self.buffers)
        return tuple(buffer[:, :, first:last] for buffer in self.buffers)

    def _room(self) -> int:
        return self.buffers[0].shape[-2] if self.buffers else 0
