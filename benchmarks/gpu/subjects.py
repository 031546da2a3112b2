"""What benchmarks/gpu_check.py measures: our models with their objectives, transformers' own beside them, and batches.

Letters: B rows, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from benchmarks.originals.electra import OriginalElectra
from benchmarks.originals.sides import FAMILIES
from data.batches.sampling import TrainBatches
from models import TransformerXLConfig, TransformerXLForCausalLM
from models.electra.config import SIZES, ElectraOptions, electra_configs, generator_config
from models.electra.joint_model import new_joint_model
from models.post_norm import use_fast_layers
from models.stock import accept_our_inputs
from training.objectives.causal_lm import CausalLanguageModelling
from training.objectives.electra import ReplacedTokenDetection
from training.objectives.masked_lm import MaskedLanguageModelling

MASKED_SHARE = 0.15
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Shape:
    """layers, hidden: of the model, where no size of its own is published; rows [B], length [T]: of a step."""

    layers: int
    hidden: int
    rows: int
    length: int
    vocabulary: int

    @property
    def narrow(self) -> int:
        """Width of the queries and keys of gated units."""
        return min(128, self.hidden)


@dataclass(frozen=True)
class Subject:
    """A model to train.

    make: the model, on torch's default device; make_loss(model): (model, batch) -> mean loss of a batch.
    remembers: whether a step leaves states that the next one sees.
    """

    make: Callable[[], nn.Module]
    make_loss: Callable[[nn.Module], Callable[[nn.Module, dict], torch.Tensor]]
    batch: dict[str, torch.Tensor]
    remembers: bool = False

    def checkpointing(self) -> "Subject":
        def make():
            model = self.make()
            model.activation_checkpointing_enable({"use_reentrant": False})
            return model

        return replace(self, make=make)


def by_objective(make_objective):
    """make_objective(model): the objective with which the scripts train it."""

    def make_loss(model):
        objective = make_objective(model)

        def loss(model, batch):
            sums, _ = objective(model, batch)
            counts = objective.counts(batch)
            terms = (weight * sums[term] / counts[term] for term, weight in objective.weights.items())
            return sum(terms)

        return loss

    return make_loss


def own_loss(model):
    """Of a model of transformers, as it computes it from labels: logits at all positions."""
    return lambda model, batch: model(**batch).loss


# Batches


def masked_batch(shape: Shape, padded: bool = False, noise: bool = False) -> dict[str, torch.Tensor]:
    """What the collator gives: full rows, or rows of half to all of the tokens; noise: with seeds of the samples."""
    rows, length = shape.rows, shape.length
    generator = torch.Generator().manual_seed(rows * 10007 + length)
    ids = torch.randint(5, shape.vocabulary, (rows, length), generator=generator)
    lengths = torch.full((rows, 1), length)
    if padded:
        lengths[1:] = torch.randint(length // 2, length + 1, (rows - 1, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    draws = torch.rand(ids.shape, generator=generator).masked_fill(mask == 0, 2.0)
    draws[:, 0] = 2.0  # never masked, and so what fills rows of fewer masked positions
    count = max(1, round(MASKED_SHARE * length))
    positions = draws.argsort(1)[:, :count]
    positions = positions.where(torch.arange(count) < (MASKED_SHARE * lengths).round().clamp(min=1), 0)
    labels = torch.full_like(ids, -100).scatter(1, positions, ids.gather(1, positions))
    labels[:, 0] = -100
    batch = {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "masked_positions": positions}
    return batch | ({"noise_seed": torch.arange(rows)} if noise else {})


def stock_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What transformers' own masked language models take of it."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}


def causal_batch(shape: Shape) -> dict[str, torch.Tensor]:
    """Segments from the middle of long documents."""
    rows, length = shape.rows, shape.length
    generator = torch.Generator().manual_seed(rows + length)
    ids = torch.randint(5, shape.vocabulary, (rows, length), generator=generator)
    positions = torch.arange(10 * length, 11 * length).repeat(rows, 1)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.roll(-1, 1)}
    return batch | {"position_ids": positions}


# Our models


def gated_config(family: str, shape: Shape, **fields):
    sizes = {
        "gau_alpha": {"intermediate_size": 2 * shape.hidden, "attention_key_size": shape.narrow},
        "flash_quad": {"s": shape.narrow},
        "flash": {"query_key_dim": shape.narrow, "linear_divisor": "valid", "group_size": min(256, shape.length // 2)},
    }[family]
    sizes |= {"vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "num_hidden_layers": shape.layers}
    return FAMILIES[family][0](**sizes | fields)


def gated(family: str, shape: Shape, padded: bool = False, **fields) -> Subject:
    """GAU-alpha, FLASHQuad or FLASH."""
    config = gated_config(family, shape, **fields)
    return Subject(
        lambda: FAMILIES[family][1](config),
        by_objective(lambda model: MaskedLanguageModelling(model, shape.length, MASKED_SHARE)),
        masked_batch(shape, padded),
    )


def bert_config(shape: Shape, **fields) -> BertConfig:
    return BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(shape.hidden // 64, 2),
        intermediate_size=4 * shape.hidden,
        attn_implementation="sdpa",
        **fields,
    )


def bert(shape: Shape, padded: bool = False, **fields) -> Subject:
    """As run_mlm_wwm.py trains it."""
    return Subject(
        lambda: use_fast_layers(accept_our_inputs(BertForMaskedLM(bert_config(shape, **fields)))),
        by_objective(lambda model: MaskedLanguageModelling(model, shape.length, MASKED_SHARE)),
        masked_batch(shape, padded),
    )


def electra_pair(size: str, shape: Shape, **fields):
    """Configs of generator and discriminator of a published size, but for their layers."""
    _, discriminator = electra_configs(size, shape.vocabulary)
    discriminator.update(fields | {"num_hidden_layers": shape.layers})
    if shape.hidden < 64:  # a toy
        sizes = {"embedding_size": shape.hidden // 2, "hidden_size": shape.hidden, "intermediate_size": 64}
        discriminator.update(sizes | {"num_attention_heads": 4})
    return generator_config(discriminator, SIZES[size][-1]), discriminator


def electra(size: str, shape: Shape, padded: bool = False, **fields) -> Subject:
    return Subject(
        lambda: new_joint_model(*electra_pair(size, shape, **fields), ElectraOptions()),
        by_objective(lambda model: ReplacedTokenDetection(model, shape.length, MASKED_SHARE)),
        masked_batch(shape, padded, noise=True),
    )


def gated_electra(shape: Shape, padded: bool = False, **fields) -> Subject:
    """GAU-alpha as generator and as discriminator."""

    def make():
        config = gated_config("gau_alpha", shape, **fields)
        return new_joint_model(generator_config(config, 2), config, ElectraOptions())

    objective = by_objective(lambda model: ReplacedTokenDetection(model, shape.length, MASKED_SHARE))
    return Subject(make, objective, masked_batch(shape, padded, noise=True))


def transformer_xl(shape: Shape, memory: int, **fields) -> Subject:
    """memory: tokens that it trains with, 0 for none."""
    sizes = {"vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "num_hidden_layers": shape.layers}
    sizes |= {"num_attention_heads": max(shape.hidden // 64, 2), "segment_length": shape.length}
    sizes |= {"mem_len": memory or shape.length // 2, "attention_window": shape.length}
    batches = TrainBatches(shape.rows, shape.rows, steps=1, seed=0)
    return Subject(
        lambda: TransformerXLForCausalLM(TransformerXLConfig(**sizes | fields)),
        by_objective(lambda model: CausalLanguageModelling(model, shape.length, batches, memory)),
        causal_batch(shape),
        remembers=memory > 0,
    )


# Models of transformers, and the originals' ways


class DeviceElectra(OriginalElectra):
    """As its ports compute it, with noise drawn where the logits are."""

    def sample(self, logits):
        return (logits.float() - torch.empty_like(logits, dtype=torch.float32).exponential_().log()).argmax(-1)

    def forward(self, *, input_ids, attention_mask, labels):
        return super().forward(input_ids, attention_mask, labels)[2]


def stock_bert(shape: Shape) -> Subject:
    batch = stock_batch(masked_batch(shape))
    return Subject(lambda: BertForMaskedLM(bert_config(shape)), own_loss, batch)


def stock_modernbert(shape: Shape) -> Subject:
    """ModernBERT-base's layers and widths; other sizes in proportion."""
    config = ModernBertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=3 * shape.hidden // 2,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(shape.hidden // 64, 2),
        attn_implementation="sdpa",
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    )
    batch = stock_batch(masked_batch(shape))
    return Subject(lambda: ModernBertForMaskedLM(config), own_loss, batch)


def stock_electra(size: str, shape: Shape) -> Subject:
    return Subject(
        lambda: DeviceElectra(*electra_pair(size, shape)),
        lambda model: lambda model, batch: model(**batch),
        stock_batch(masked_batch(shape)),
    )


def stock_gpt2(shape: Shape) -> Subject:
    sizes = {"n_embd": shape.hidden, "n_layer": shape.layers, "n_head": max(shape.hidden // 64, 2)}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(
        vocab_size=shape.vocabulary, n_positions=shape.length, attn_implementation="sdpa", **sizes, **ids
    )
    batch = causal_batch(shape)
    batch = {"input_ids": batch["input_ids"], "labels": batch["input_ids"]}
    return Subject(lambda: GPT2LMHeadModel(config), own_loss, batch)


def original(family: str, shape: Shape) -> Subject:
    """The equations of a gated unit in plain torch, as its PyTorch port computes them, with logits everywhere."""

    def loss(model, batch):
        return model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"])["loss"]

    batch = stock_batch(masked_batch(shape))
    return Subject(lambda: FAMILIES[family][2](gated_config(family, shape)), lambda model: loss, batch)
