"""The joint ELECTRA model as its PyTorch ports compute it, on transformers' two heads: logits at all positions.

Source: what richarddwang/electra_pytorch does in a step, in our own words: the opponent of
models/electra/joint_model.py in benchmarks/electra_step.py. It passes the same parity case
(tests/models/electra/test_joint_model.py).
Letters: B batch, T tokens, N masked tokens, V vocab_size.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining


class OriginalElectra(nn.Module):
    """Generator and discriminator with one embedding module, 1 and 50 times their mean losses."""

    def __init__(self, generator: ElectraConfig, discriminator: ElectraConfig):
        super().__init__()
        self.generator = ElectraForMaskedLM(generator)
        self.discriminator = ElectraForPreTraining(discriminator)
        self.discriminator.electra.embeddings = self.generator.electra.embeddings
        self.generator.generator_lm_head.weight = self.generator.electra.embeddings.word_embeddings.weight
        self.gumbel = torch.distributions.Gumbel(0.0, 1.0)

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        """Tokens [N] by the Gumbel-max trick over all of logits [N, V]."""
        return (logits.float() + self.gumbel.sample(logits.shape).to(logits.device)).argmax(-1)

    def forward(self, input_ids, attention_mask, labels, token_type_ids=None):
        """All [B, T] int64; returns generator's, discriminator's and total loss, and the sampled tokens."""
        masked, real = labels != -100, attention_mask.bool()
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        logits = self.generator(input_ids=input_ids, **inputs).logits[masked]
        originals = labels[masked]
        with torch.no_grad():
            sampled = self.sample(logits)
            changed = input_ids.clone()
            changed[masked] = sampled
            replaced = torch.zeros_like(masked)
            replaced[masked] = sampled != originals
        scores = self.discriminator(input_ids=changed, **inputs).logits
        generator_loss = F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, originals)
        scores = scores[real]
        scores = scores.float() if scores.dtype != torch.float64 else scores
        discriminator_loss = F.binary_cross_entropy_with_logits(scores, replaced[real].to(scores.dtype))
        return generator_loss, discriminator_loss, generator_loss + 50 * discriminator_loss, sampled
