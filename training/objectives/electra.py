"""Replaced token detection (ELECTRA): cross entropy of the generator and fifty times that of the discriminator.

Both are means over the whole global batch, of masked tokens and of all real tokens (Clark et al. 2020, section 2).
"""

import torch
from transformers import TrainerCallback

from training.objectives.base import IGNORED, Objective
from training.objectives.masked_lm import separate_documents

SCORE_BINS, SCORE_RANGE = 2048, 10.0  # of the histogram from which the AUC is computed, in nats of logit


class ReplacedTokenDetection(Objective):
    """Losses and metrics of models.electra.joint_model.ElectraForJointPreTraining."""

    def __init__(self, model: torch.nn.Module, longest: int, probability: float):
        """longest: tokens of the longest row; probability: masked tokens per token."""
        super().__init__(longest)
        options = model.options
        self.weights, self.metrics, self.histograms = {}, [], {}
        if model.generator is not None:
            self.weights["generator"] = options.gen_weight
            self.metrics += ["generator_accuracy", "generator_hidden_accuracy"]
        if model.discriminator is not None:
            self.weights["discriminator"] = options.disc_weight
            names = ("accuracy", "precision", "recall")
            self.metrics += ["sampled_accuracy", "share_replaced", *(f"discriminator_{name}" for name in names)]
            self.histograms["discriminator_auc"] = (2 * SCORE_BINS, area_under_curve)
        self._probability = probability

    def counts(self, inputs: dict) -> dict[str, torch.Tensor]:
        targets = {"generator": (inputs["labels"] != IGNORED).sum(), "discriminator": inputs["attention_mask"].sum()}
        return {term: targets[term] for term in self.weights}

    def example(self, length: int) -> dict[str, torch.Tensor]:
        positions = torch.arange(max(1, round(self._probability * length))).unsqueeze(0)
        seed = torch.ones(1, dtype=torch.int64)
        return super().example(length) | {"masked_positions": positions, "noise_seed": seed}

    def __call__(self, model, inputs: dict):
        outputs = model(**separate_documents(inputs), real_tokens=inputs["attention_mask"])
        sums = {"generator": outputs.generator_loss, "discriminator": outputs.discriminator_loss}
        metrics = {}
        if "generator" in self.weights:
            metrics["generator_accuracy"] = (outputs.generator_correct, outputs.masked)
            metrics["generator_hidden_accuracy"] = (outputs.hidden_correct, outputs.hidden)
        if "discriminator" in self.weights:
            metrics["sampled_accuracy"] = (outputs.sampled_correct, outputs.masked)
            metrics |= detection_metrics(outputs.logits.detach(), outputs.replaced, outputs.scored)
        return {term: sums[term] for term in self.weights}, metrics


class FallingTemperature(TrainerCallback):
    """Lowers the temperature of the generator's samples from its initial one, evenly over a quarter of a training.

    Hot samples are rare tokens, which a new discriminator soon learns to tell apart; at a temperature of 1 from the
    start a small one stays with the constant guess for long. The training is as far along as its schedule is.
    """

    def __init__(self, model: torch.nn.Module, stop):
        """model: an ElectraForJointPreTraining with an initial_temperature; stop: the trainer's StopEarly."""
        self._model, self._stop = model, stop

    def on_step_begin(self, args, state, control, **kwargs):
        share = (args.steps_before + state.global_step) / (args.steps_before + state.max_steps)
        share = max(share, self._stop.share) if args.schedule_by_time else share
        first, last = self._model.options.initial_temperature, self._model.options.temperature
        self._model.training_temperature.fill_(first + (last - first) * min(1.0, 4 * share))


def detection_metrics(logits: torch.Tensor, replaced: torch.Tensor, scored: torch.Tensor) -> dict:
    """Pairs, and the histogram of scores, of logits [B, T] over the scored tokens; replaced, scored [B, T] bool."""
    guessed = logits > 0
    hits, total, fakes = (guessed & replaced & scored).sum(), scored.sum(), (replaced & scored).sum()
    return {
        "discriminator_accuracy": (((guessed == replaced) & scored).sum(), total),
        "discriminator_precision": (hits, (guessed & scored).sum()),
        "discriminator_recall": (hits, fakes),
        "share_replaced": (fakes, total),
        "discriminator_auc": score_histogram(logits, replaced, scored),
    }


def score_histogram(logits: torch.Tensor, replaced: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Numbers of original, then of replaced scored tokens in each bin of their logit, [2 SCORE_BINS] int64."""
    bins = ((logits.float() + SCORE_RANGE) * (SCORE_BINS / (2 * SCORE_RANGE))).long().clamp(0, SCORE_BINS - 1)
    bins = bins + SCORE_BINS * replaced
    return torch.zeros(2 * SCORE_BINS, dtype=torch.int64, device=logits.device).index_add_(
        0, bins.flatten(), scored.flatten().long()
    )


def area_under_curve(histogram: list[float]) -> float:
    """How probably a replaced token scores higher than an original one, ties halved; 0.5 without one of the kinds."""
    originals, fakes = torch.tensor(histogram, dtype=torch.float64).view(2, -1)
    pairs = originals.sum() * fakes.sum()
    if not pairs:
        return 0.5
    return ((fakes * (originals.cumsum(0) - originals / 2)).sum() / pairs).item()
