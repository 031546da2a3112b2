"""Chinese Transformer-XL computed the way its authors compute it: the opponent in benchmarks/decode_step.py.

Source: the behaviour of THUDM/Chinese-Transformer-XL d374101 (equations, order of operations, memory), in our own
code; it passes the same parity cases as models/transformer_xl.py (tests/test_benchmark_originals.py). Memory is kept
as hidden states, so each step projects queries, keys and values of all of it again, and the positions with them.
Letters: B batch, Q tokens given, M tokens remembered, K = M + Q, H hidden_size, N heads, D = H / N.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """hidden and memory [B, Q, H], [B, M, H], both normed -> [B, Q, H]."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.relative = nn.Linear(config.hidden_size, config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def split(self, states):
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, hidden, memory, mask, positions, content_bias, distance_bias):
        length = hidden.shape[1]
        states = torch.cat((memory, hidden), dim=1) if memory is not None else hidden
        query, key, value = (self.split(part) for part in self.query_key_value(states).chunk(3, dim=-1))
        query, relative = query[:, :, -length:], self.split(self.relative(positions))
        content = torch.matmul(query + content_bias.unsqueeze(1), key.transpose(-1, -2))
        distance = torch.matmul(query + distance_bias.unsqueeze(1), relative.transpose(-1, -2))
        padded = F.pad(distance, (1, 0)).view(*distance.shape[:2], distance.shape[3] + 1, length)
        scores = (content + padded[:, :, 1:].view_as(distance)) / math.sqrt(query.shape[-1])
        scores = scores * mask - 10000.0 * (1.0 - mask)
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.dense(mixed.transpose(1, 2).reshape(hidden.shape))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict(
            {
                "dense_h_to_4h": nn.Linear(config.hidden_size, 4 * config.hidden_size),
                "dense_4h_to_h": nn.Linear(4 * config.hidden_size, config.hidden_size),
            }
        )

    def forward(self, hidden, memory, *inputs):
        memory = None if memory is None else self.input_layernorm(memory)
        hidden = hidden + self.attention(self.input_layernorm(hidden), memory, *inputs)
        inner = F.gelu(self.mlp["dense_h_to_4h"](self.post_attention_layernorm(hidden)), approximate="tanh")
        return hidden + self.mlp["dense_4h_to_h"](inner)


class OriginalTransformerXL(nn.Module):
    """Inference of the relative variant; config is a TransformerXLConfig, names of parameters are the original's."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = nn.Module()
        shape = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
        self.transformer.r_w_bias = nn.Parameter(torch.zeros(shape))
        self.transformer.r_r_bias = nn.Parameter(torch.zeros(shape))
        self.transformer.position_embeddings = nn.Module()
        frequencies = 1 / (10000 ** (torch.arange(0.0, config.hidden_size, 2.0) / config.hidden_size))
        self.transformer.position_embeddings.register_buffer("inv_freq", frequencies)
        self.transformer.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.transformer.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids, memories=(), mask=None):
        """ids [B, Q], mask [Q, mem_len + Q] of 1 and 0 -> logits [B, Q, V], memories [B, M, H] of each layer."""
        parts, length = self.transformer, ids.shape[1]
        keys = length + (memories[0].shape[1] if memories else 0)
        hidden = self.word_embeddings(ids)
        mask = torch.ones(length, keys).tril(keys - length) if mask is None else mask[..., -keys:]
        angles = torch.arange(keys - 1, -1, -1.0).unsqueeze(-1) * parts.position_embeddings.inv_freq.float()
        positions = torch.cat((angles.sin(), angles.cos()), dim=-1).to(hidden.dtype).unsqueeze(0)
        states = [hidden]
        for number, layer in enumerate(parts.layers):
            memory = memories[number] if memories else None
            hidden = layer(hidden, memory, mask.to(hidden.dtype), positions, parts.r_w_bias, parts.r_r_bias)
            states.append(hidden)
        joined = [torch.cat(pair, dim=1) for pair in zip(memories, states, strict=True)] if memories else states
        memories = [state[:, -self.config.mem_len :] for state in joined] if self.config.mem_len else ()
        return F.linear(parts.final_layernorm(hidden), self.word_embeddings.weight), memories
