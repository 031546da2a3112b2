"""The two sides of benchmarks/train_step.py: our models and the originals, their shapes, weights, inputs and products.

Letters: B batch, T tokens, P masked tokens a row, E expanded width, D query/key width.
"""

from dataclasses import dataclass

import torch

import models
from benchmarks.originals import peers
from benchmarks.originals.flash import OriginalFLASH
from benchmarks.originals.flashquad import OriginalFLASHQuad
from benchmarks.originals.gau_alpha import OriginalGAUAlpha

FAMILIES = {
    "gau_alpha": (models.GAUAlphaConfig, models.GAUAlphaForMaskedLM, OriginalGAUAlpha),
    "flash_quad": (models.FLASHQuadConfig, models.FLASHQuadForMaskedLM, OriginalFLASHQuad),
    "flash": (models.FLASHConfig, models.FLASHForMaskedLM, OriginalFLASH),
}
MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Shape:
    """Layers, width and batch of one comparison."""

    name: str
    layers: int
    hidden: int
    batch: int
    length: int

    def config(self, family: str):
        fields = {"num_hidden_layers": self.layers, "hidden_size": self.hidden}
        if family == "gau_alpha":
            fields["intermediate_size"] = 2 * self.hidden
        return FAMILIES[family][0](**fields)

    def products(self, family: str, ours: bool) -> float:
        """Floating point operations of the matrix products of one step: forward, and twice that backward."""
        config, tokens = self.config(family), self.batch * self.length
        expanded, width = 2 * self.hidden, 128
        span = min(config.group_size, self.length) if family == "flash" else self.length
        layer = self.hidden * (3 * expanded + width) + span * (width + expanded)
        if family == "flash":
            layer += 2 * width * expanded  # linear attention
        head = self.hidden * (config.vocab_size + (self.hidden if family == "flash_quad" else 0))
        # Ours computes what follows at masked positions only: the head, the last layer's gate, output and queries.
        narrow = head + 2 * self.hidden * expanded + (0 if family == "flash" else span * (width + expanded))
        return 6.0 * tokens * (self.layers * layer + head - (narrow * (1 - MASKED_SHARE) if ours else 0))


SHAPES = {
    "base": Shape("base", layers=12, hidden=768, batch=8, length=512),
    "quickstart": Shape("quickstart", layers=4, hidden=256, batch=64, length=128),
    "tiny": Shape("tiny", layers=2, hidden=32, batch=2, length=32),
}


def make_model(family: str, shape: Shape, side: str) -> torch.nn.Module:
    """The model of one side in training mode; the original gets our initial weights."""
    torch.manual_seed(0)
    config = shape.config(family)
    if side in peers.PEERS:
        return peers.PEERS[side].build(config).train()
    model = FAMILIES[family][1](config).train()
    if side == "ours":
        return model
    original, state = FAMILIES[family][2](config).train(), model.state_dict()
    original.load_state_dict({name: state.get(name, tensor) for name, tensor in original.state_dict().items()})
    return original


def make_batch(shape: Shape, vocab_size: int) -> dict[str, torch.Tensor]:
    """Random full rows [B, T] with labels at P sorted positions of each."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, vocab_size, (shape.batch, shape.length), generator=generator)
    order = torch.rand(ids.shape, generator=generator).argsort(dim=1)
    positions = order[:, : round(MASKED_SHARE * shape.length)].sort(dim=1).values
    labels = torch.full_like(ids, -100).scatter_(1, positions, ids.gather(1, positions))
    return {"ids": ids, "mask": torch.ones_like(ids), "labels": labels, "positions": positions}
