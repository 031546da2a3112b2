"""Causal language modelling: cross entropy of each position's target, with or without a memory carried along.

The memory is Transformer-XL's (Dai et al. 2019, section 3.2): the hidden states of a row's last mem_len tokens, which
its next segment attends to. In training each row of a step is a stream of its own, in evaluation a document.
Letters: B rows of a micro-batch, T tokens of a segment, K = mem_len + T keys.
"""

import inspect
from collections import deque
from types import MappingProxyType

import torch
from torch.nn import functional as F

from training.objectives import IGNORED
from training.pretrained import ArgumentError


class CausalLanguageModelling:
    """Loss of any causal LM on batches whose labels [B, T] are the targets of their own positions.

    Attributes: documents, None or a list to which evaluation appends (documents [B], losses [B], targets [B]).
    """

    weights, metrics, histograms = MappingProxyType({"clm": 1.0}), (), MappingProxyType({})
    perplexity_of = "clm"
    decayed = ("r_w_bias", "r_r_bias")  # as in the original, which spares only what Megatron calls a bias

    def __init__(
        self, model: torch.nn.Module, length: int, batches=None, mem_len: int = 0, document_mask: bool = True
    ):
        """length: T; batches: this process's training micro-batches, None without training.

        mem_len: tokens of memory that the model gives and takes, 0 for none; document_mask: whether tokens see their
        own document only.
        """
        self.example_lengths = (max(length // 2, 1), max(length, 2))
        self.documents: list | None = None
        self._mem_len, self._document_mask = mem_len, document_mask
        self._parameters = inspect.signature(model.forward).parameters
        self._config = model.config
        self._takes_pair_masks = getattr(model, "takes_pair_masks", False)
        self._batches = batches
        self._training_memory = deque([None] * (batches.accumulation if batches is not None else 1))
        self._evaluation_memory = None

    def counts(self, inputs: dict) -> dict[str, torch.Tensor]:
        return {"clm": (inputs["labels"] != IGNORED).sum()}

    def example(self, length: int) -> dict:
        ones = torch.ones(1, length, dtype=torch.int64)
        positions = self._mem_len + torch.arange(length).unsqueeze(0)
        batch = {"input_ids": ones, "attention_mask": ones, "labels": ones, "position_ids": positions, "fresh": True}
        if self._mem_len:
            state = torch.zeros(1, self._mem_len, self._config.hidden_size)
            batch["mems"] = [state] * (self._config.num_hidden_layers + 1)
        return batch

    def __call__(self, model, inputs: dict):
        labels, training = inputs["labels"], torch.is_grad_enabled()
        mems = self._recall(inputs, training) if self._mem_len else None
        outputs = model(**self._arguments(inputs, mems))
        if self._mem_len and training:
            self._training_memory.append(outputs.mems)
        elif self._mem_len:
            self._evaluation_memory = outputs.mems
        losses = F.cross_entropy(
            outputs.logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels)
        if self.documents is not None and not training:
            self.documents.append((inputs["documents"], losses.sum(1), (labels != IGNORED).sum(1)))
        return {"clm": losses.sum()}, {}

    def _recall(self, inputs: dict, training: bool):
        """The memory of these rows; None at the start of the training, and of the documents."""
        if training:
            return self._training_memory.popleft()
        return inputs.get("mems") if inputs["fresh"] else self._evaluation_memory

    def _arguments(self, inputs: dict, mems) -> dict:
        """What the model's forward takes."""
        found = {"input_ids": inputs["input_ids"]}
        if "use_cache" in self._parameters:
            found["use_cache"] = False  # keys and values for generation
        if self._mem_len:
            found |= {"mems": mems, "output_mems": True}
        positions = inputs["position_ids"]  # in the document
        if "documents" in inputs:  # rows of one document each
            if not self._mem_len:
                found["attention_mask"] = inputs["attention_mask"]
        elif self._document_mask:
            found["attention_mask"] = self._pairs(positions)
            if "position_ids" in self._parameters:
                # In the row: a model that counts positions sees nothing of what was before.
                row = torch.arange(positions.shape[1], device=positions.device)
                found["position_ids"] = torch.minimum(positions, row)
        return found

    def _pairs(self, positions: torch.Tensor) -> torch.Tensor:
        """The keys that tokens at these places [B, T] of their documents may see: [B, T, K], or with a head dimension.

        A token sees no farther back than its document goes. Padding, place 0, sees itself.
        """
        length = positions.shape[1]
        queries = torch.arange(length, device=positions.device).unsqueeze(1)
        distance = queries + self._mem_len - torch.arange(self._mem_len + length, device=positions.device)
        visible = (distance >= 0) & (distance <= positions.unsqueeze(2))
        if self._takes_pair_masks:
            return visible
        visible = visible.unsqueeze(1)
        if self._config._attn_implementation == "sdpa":
            return visible
        return torch.where(visible, 0.0, torch.finfo(torch.float32).min)  # what transformers' own masks hold

    def state(self) -> dict[str, torch.Tensor]:
        """The training memory of this process's streams, [streams, M, H] by layer, and which streams they are."""
        if not self._mem_len or self._training_memory[0] is None:
            return {}
        layers = [torch.cat(states) for states in zip(*self._training_memory, strict=True)]
        return {f"layer.{number}": state for number, state in enumerate(layers)} | {"streams": self._streams()}

    def restore(self, *parts: dict[str, torch.Tensor], device: torch.device | None = None) -> None:
        """Take up what `state` gave on all processes, however its streams are dealt out now. ArgumentError without."""
        if not self._mem_len:
            return
        found = [stream for part in parts if part for stream in part["streams"].tolist()]
        rows = {stream: row for row, stream in enumerate(found)}
        mine = self._streams().tolist()
        if not rows.keys() >= set(mine):
            raise ArgumentError(
                "--resume_from_checkpoint must hold the memory of this process's streams, got that of others or none; "
                "name another one, or continue from its weights with --model_name_or_path"
            )
        wanted = [rows[stream] for stream in mine]
        layers = [
            torch.cat([part[f"layer.{number}"] for part in parts])[wanted].to(device)
            for number in range(len(parts[0]) - 1)
        ]
        shares = [layer.chunk(self._batches.accumulation) for layer in layers]
        self._training_memory = deque(zip(*shares, strict=True))

    def _streams(self) -> torch.Tensor:
        rows = self._batches
        first = (torch.arange(rows.accumulation) * rows.processes + rows.process) * rows.micro_batch
        return (first.unsqueeze(1) + torch.arange(rows.micro_batch)).flatten()
