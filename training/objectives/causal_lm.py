"""Causal language modelling: cross entropy of each position's target, with or without a memory carried along.

The memory is Transformer-XL's (Dai et al. 2019, section 3.2): the hidden states of a row's last mem_len tokens, which
its next segment attends to. In training each row of a step is a stream of its own, in evaluation a document.
Letters: B rows of a micro-batch, T tokens of a segment, K = mem_len + T keys.
"""

import inspect
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch.nn import functional as F
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from common.errors import ArgumentError
from training.config_derivation import told
from training.objectives.base import IGNORED, Objective, trying

ROUNDING = 1e-4  # of logits that are the same: fp32 gives up to 4e-6, a window or a document not seen above 5e-3


MASKINGS = ("pairs", "positions", "layer_types")  # how a stock model may be told which documents a row holds
LAYER_TYPES = {"full_attention", "sliding_attention"}  # of which a mask can be made


class CausalLanguageModelling(Objective):
    """Loss of any causal LM on batches whose labels [B, T] are the targets of their own positions."""

    weights, perplexity_of = MappingProxyType({"clm": 1.0}), "clm"
    decayed = ("r_w_bias", "r_r_bias")  # as in the original, which spares only what Megatron calls a bias

    def __init__(
        self, model: torch.nn.Module, length: int, batches=None, mem_len: int = 0, document_mask: bool = True
    ):
        """length: T; batches: this process's training micro-batches, None without training.

        mem_len: tokens of memory that the model gives and takes, 0 for none; document_mask: whether tokens see their
        own document only.
        """
        super().__init__(length)
        self._document_sums: list[tuple[torch.Tensor, ...]] | None = None  # while `document_sums` collects them
        self._mem_len, self._document_mask = mem_len, document_mask
        self._masking = "pairs"  # one of MASKINGS
        self._parameters = inspect.signature(model.forward).parameters
        self._config = model.config
        self._takes_pair_masks = getattr(model, "takes_pair_masks", False)
        self._batches = batches
        self._training_memory = deque([None] * (batches.accumulation if batches is not None else 1))
        self._evaluation_memory = None

    def counts(self, inputs: dict) -> dict[str, torch.Tensor]:
        return {"clm": (inputs["labels"] != IGNORED).sum()}

    def example(self, length: int) -> dict:
        positions = self._mem_len + torch.arange(length).unsqueeze(0)
        batch = super().example(length) | {"position_ids": positions, "fresh": True}
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
        if self._document_sums is not None:
            self._document_sums.append((inputs["documents"], losses.sum(1), (labels != IGNORED).sum(1)))
        return {"clm": losses.sum()}, {}

    @contextmanager
    def document_sums(self) -> Iterator[list[tuple[torch.Tensor, ...]]]:
        """Collects (documents [B], losses [B], targets [B]) of each batch that is evaluated meanwhile."""
        self._document_sums = []
        try:
            yield self._document_sums
        finally:
            self._document_sums = None

    def check(self, model, packed: bool, overrides: str | None = None) -> None:
        """Try a stock model before its run; ArgumentError when it cannot do what the run asks of it.

        overrides: of its config, to be named where the model cannot run. It must be causal and, where rows of several
        documents are packed, keep them apart: its logits of two in a row must be those of each alone. A mask of pairs
        does that, unless the model has windows, which such a mask replaces; then transformers' own way does, positions
        that begin anew and no mask at all, or a mask for each type of layer. Models of this repository do by their
        tests.
        """
        if hasattr(model, "takes_pair_masks") or is_deepspeed_zero3_enabled():
            return
        length = _telling_length(model.config, max(self.example_lengths))
        first, generator = min(5, length // 2), torch.Generator().manual_seed(0)
        ids = torch.randint(model.config.get_text_config().vocab_size, (1, length), generator=generator)
        places = torch.arange(length).unsqueeze(0)
        row = {"input_ids": ids, "position_ids": places}
        pair = row | {"position_ids": torch.where(places < first, places, places - first)}
        whole = row | {"attention_mask": torch.ones_like(ids), "documents": None}

        def logits(inputs, start=0, stop=length):
            inputs = {name: tensor if tensor is None else tensor[:, start:stop] for name, tensor in inputs.items()}
            return model(**self._arguments(inputs, None)).logits.float()

        with trying(model), told(model.config, overrides):
            parts = [logits(whole, 0, first), logits(whole, first)]
            if _apart(logits(whole)[:, :first], parts[0]):
                raise ArgumentError(
                    f"{type(model).__name__} must be causal, and its tokens see those that follow them; give "
                    "is_decoder=true in --config_overrides, or train it with run_mlm_wwm.py"
                )
            if packed and not self._document_mask:
                logits(row)
            elif packed:
                self._settle_masking(model, lambda: logits(pair), torch.cat(parts, dim=1))

    def _settle_masking(self, model, packed, expected: torch.Tensor) -> None:
        """Take the first way that gives the logits of each document alone. ArgumentError when none does."""
        reasons = []
        usable = {"positions": "position_ids" in self._parameters}
        usable |= {"layer_types": set(getattr(self._config, "layer_types", None) or ["none"]) <= LAYER_TYPES}
        for self._masking in MASKINGS:
            if not usable.get(self._masking, True):
                continue
            try:
                difference = _apart(packed(), expected)
            except Exception as error:  # whatever a family's forward makes of a mask that it does not know
                reasons.append(" ".join(f"{type(error).__name__}: {error}".split())[:200])
            else:
                if not difference:
                    return
                reasons.append(
                    f"its logits differ from those of each document alone by {difference:.1e} of the largest"
                )
        raise ArgumentError(
            f"--document_mask true needs a model that can keep documents of a row apart, and {type(model).__name__} "
            f"does not ({reasons[0]}); give --document_mask false"
        )

    def _recall(self, inputs: dict, training: bool):
        """The memory of these rows; None at the start of the training, and of the documents."""
        if training:
            return self._training_memory.popleft()
        return inputs.get("mems") if inputs["fresh"] else self._evaluation_memory

    def _arguments(self, inputs: dict, mems) -> dict:
        """What the model's forward takes."""
        arguments = {"input_ids": inputs["input_ids"]}
        if "use_cache" in self._parameters:
            arguments["use_cache"] = False  # keys and values for generation
        if self._mem_len:
            arguments |= {"mems": mems, "output_mems": True}
        positions = inputs["position_ids"]  # in the document
        if "documents" in inputs:  # rows of one document each
            if not self._mem_len:
                arguments["attention_mask"] = inputs["attention_mask"]
        elif self._document_mask:
            if self._masking == "pairs":
                arguments["attention_mask"] = self._pairs(positions)
            elif self._masking == "layer_types":
                arguments["attention_mask"] = {kind: self._pairs(positions, kind) for kind in self._config.layer_types}
            if "position_ids" in self._parameters:
                # In the row: a model that counts positions sees nothing of what was before.
                row = torch.arange(positions.shape[1], device=positions.device)
                arguments["position_ids"] = torch.minimum(positions, row)
        return arguments

    def _pairs(self, positions: torch.Tensor, layer_type: str = "full_attention") -> torch.Tensor:
        """The keys that tokens at these places [B, T] of their documents may see: [B, T, K], or with a head dimension.

        A token sees no farther back than its document goes. Padding, place 0, sees itself.
        """
        length = positions.shape[1]
        queries = torch.arange(length, device=positions.device).unsqueeze(1)
        distance = queries + self._mem_len - torch.arange(self._mem_len + length, device=positions.device)
        visible = (distance >= 0) & (distance <= positions.unsqueeze(2))
        if layer_type == "sliding_attention":
            visible &= distance < self._config.sliding_window
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
        streams = [stream for part in parts if part for stream in part["streams"].tolist()]
        rows = {stream: row for row, stream in enumerate(streams)}
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


def _telling_length(config, longest: int) -> int:
    """Tokens of a row in which each window of the model that rows can be longer than shows."""
    windows = (
        value
        for name, value in config.get_text_config().to_dict().items()
        if any(word in name for word in ("window", "chunk", "local")) and type(value) is int and 0 < value < longest
    )
    return min(longest, max([64, *(window + 16 for window in windows)]))


def _apart(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of logits as a share of the largest, 0 for what is rounding."""
    share = ((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()
    return 0.0 if share < ROUNDING else share
