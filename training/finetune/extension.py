"""What finetuning adds to the loop: the best weights apart, an end without improvement, learning rates, an adversary.

FGM, a second backward pass in which the word embeddings stand where the loss is higher: Miyato et al. 2017, arXiv
1605.07725, on the embedding matrix as in dbiir/UER-py: it moves by epsilon * g / |g|, g its gradient of the whole
step, and is put back bit for bit.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from training.finetune.job import TRAIN_LOG
from training.finetune.steps import keep_model
from training.loop.extension import Extension


class FastGradient:
    """Moves a model's word embeddings for the time of one backward pass.

    epsilon: length of the move; 1 is usual.
    """

    def __init__(self, epsilon: float):
        self.epsilon = epsilon

    @contextmanager
    def __call__(self, model: torch.nn.Module) -> Iterator[None]:
        """The model's word embeddings are moved inside, and as before afterwards, whatever happens.

        They need their gradient of the step; without one, or with one that is no number (fp16), they stay.
        """
        weight = model.get_input_embeddings().weight
        if weight.grad is None:
            yield
            return
        before = weight.detach().clone()
        with torch.no_grad():
            gradient = weight.grad.float()
            norm = gradient.norm()
            usable = norm.isfinite() & (norm > 0)
            weight.add_(torch.where(usable, gradient * (self.epsilon / norm), 0).to(weight.dtype))
        try:
            yield
        finally:
            with torch.no_grad():
                weight.copy_(before)


class FinetuneExtension(Extension):
    """Keeps the best weights in a job's folder.

    Args:
        folder: of the job.
        rate_factors: of learning rates, by the names of parameters.
        patience: evaluations in a row that may pass without a better one before training stops; None for any number.
        adversary: in which a second backward of each step runs; None for none.
    """

    log_file, keeps_best = TRAIN_LOG, True

    def __init__(
        self,
        folder: Path,
        rate_factors: Mapping[str, float],
        patience: int | None = None,
        adversary: FastGradient | None = None,
    ):
        self.rate_factors = rate_factors
        self._folder, self._patience, self._adversary = folder, patience, adversary
        self._batches: list[dict] = []  # of the running step, for the adversary

    def after_backward(self, trainer, model, inputs, counts):
        """Add the gradients of the whole step's rows under the adversary, once that of the rows alone is complete."""
        if self._adversary is None:
            return
        self._batches.append(inputs)
        if trainer.accelerator.sync_gradients:
            batches, self._batches = self._batches, []
            with self._adversary(trainer.model):
                for batch in batches:
                    trainer.backward(model, batch, counts)

    def after_evaluation(self, trainer, is_best):
        if is_best:
            trainer.guard.check(weights=True)
            keep_model(trainer, self._folder)
        elif self._patience is not None:
            evaluated = {logs["step"] for logs in trainer.state.log_history if "primary" in logs}
            worse = [step for step in evaluated if step > (trainer.state.best_global_step or 0)]
            trainer.control.should_training_stop |= len(worse) >= self._patience
