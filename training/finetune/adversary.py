"""FGM: a second backward pass in which the word embeddings stand where the loss is higher.

Source: Miyato et al. 2017, arXiv 1605.07725, on the embedding matrix as in dbiir/UER-py: it moves by
epsilon * g / |g|, g its gradient of the whole step, and is put back bit for bit.
"""

from contextlib import contextmanager

import torch


class FastGradient:
    """Moves a model's word embeddings for the time of one backward pass.

    epsilon: length of the move; 1 is usual.
    """

    def __init__(self, epsilon: float):
        self.epsilon = epsilon

    @contextmanager
    def __call__(self, model: torch.nn.Module):
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
