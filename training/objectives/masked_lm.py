"""What a step minimises and counts: sums and counts per micro-batch, from which the Trainer forms exact means.

An objective has
    weights: {term: factor}, the total loss is the sum over terms of factor * sum / count of the whole global batch;
    metrics: names of the metrics that are quotients of two sums;
    histograms: {metric: (bins, function of the summed bins)}, of those that are not;
    perplexity_of: the term whose exponential evaluation reports, or None;
    example_lengths, example(length): two row lengths, and inputs of one row, on which FLOPs are counted;
    counts(inputs) -> {term: int64 scalar}, how many targets the micro-batch holds, read from the inputs alone;
    __call__(model, inputs) -> ({term: sum over targets}, {metric: (numerator, denominator) or histogram}), fp32 or
    int64 scalars, and vectors, on the device.
One may name parameters with weight decay in spite of their names: decayed, what these end in.
One that carries something from step to step also has state() -> {name: tensor}, of this process, {} for nothing, and
restore(that).
"""

import inspect
from contextlib import contextmanager
from types import MappingProxyType

import torch

from training.objectives.base import IGNORED, separate_documents


@contextmanager
def trying(model: torch.nn.Module):
    """For a trial on the CPU: no gradients, no dropout; the model's mode and the random numbers stay as they were."""
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()
            yield
    finally:
        model.train(training)


class MaskedLanguageModelling:
    """Cross entropy and accuracy at the labelled positions of a masked-LM head.

    A head whose forward takes `masked_positions` computes logits there only; rows with document_ids are isolated.
    """

    metrics, histograms = ("mlm_accuracy",), MappingProxyType({})
    perplexity_of = "mlm"

    def __init__(self, model: torch.nn.Module, longest: int, probability: float):
        """longest: tokens of the longest row; probability: labelled tokens per token."""
        self.weights = {"mlm": 1.0}
        self.example_lengths = (max(longest // 2, 1), max(longest, 2))
        self._probability = probability
        self._takes_positions = "masked_positions" in inspect.signature(model.forward).parameters

    def counts(self, inputs: dict) -> dict[str, torch.Tensor]:
        return {"mlm": (inputs["labels"] != IGNORED).sum()}

    def example(self, length: int) -> dict[str, torch.Tensor]:
        ones = torch.ones(1, length, dtype=torch.int64)
        positions = torch.arange(max(1, round(self._probability * length))).unsqueeze(0)
        return {"input_ids": ones, "attention_mask": ones, "labels": ones, "masked_positions": positions}

    def __call__(self, model, inputs: dict):
        inputs = separate_documents(inputs)
        labels, positions = inputs["labels"], inputs["masked_positions"]
        if self._takes_positions:
            outputs = model(**inputs)
            labels = labels.gather(1, positions)  # [B, P]
        else:
            outputs = model(**{name: tensor for name, tensor in inputs.items() if name != "masked_positions"})
        count = (labels != IGNORED).sum()
        with torch.no_grad():
            correct = (outputs.logits.argmax(-1) == labels).sum()  # -100 equals no id
        # The head's loss is a mean over its own labels, and whatever it is without any: weigh it by 0 then.
        total = torch.where(count > 0, outputs.loss.float(), 0.0) * count
        return {"mlm": total}, {"mlm_accuracy": (correct, count)}
