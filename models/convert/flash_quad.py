"""junnyu/flashquad_small_wwm_cluecorpussmall and its like: our names are theirs, plus tables and dead parameters."""

import torch

from ..layers import sinusoid_table
from .engine import Source


def position_ids(config) -> torch.Tensor:
    return torch.arange(config.max_position_embeddings).unsqueeze(0)


def sinusoid(config) -> torch.Tensor:
    return sinusoid_table(torch.arange(config.max_position_embeddings), config.hidden_size)


FLASH_QUAD = Source(
    name="flash_quad",
    model_type="flash_quad",
    renames=(
        ("flash_quad.embeddings.", "flash_quad.embeddings."),
        ("flash_quad.encoder.layer.{i}.", "flash_quad.encoder.layer.{i}."),
        ("cls.predictions.", "cls.predictions."),
        ("classifier.", "classifier."),
        ("qa_outputs.", "qa_outputs."),
    ),
    ties=(
        ("cls.predictions.decoder.weight", "flash_quad.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    tables={
        "flash_quad.embeddings.position_ids": position_ids,
        "flash_quad.embeddings.scaledsin_embeddings": sinusoid,
    },
    unused={
        "flash_quad.encoder.layer.{i}.a": lambda config: torch.zeros(1, config.s),
        "flash_quad.encoder.layer.{i}.b": lambda config: torch.zeros(1, config.s),
    },
)
