"""junnyu/flash_{small,base}_wwm_cluecorpussmall and their like: our names are theirs, without the rotary table."""

import torch

from ..flash import ROTARY_WIDTH
from .engine import Source


def inverse_frequencies(width: int) -> torch.Tensor:
    """10000^(-2i/width) in the order of operations that gives the published bits; fp32 [width / 2]."""
    return 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))


def rotary_frequencies(config) -> torch.Tensor:
    return inverse_frequencies(min(ROTARY_WIDTH, config.query_key_dim))


FLASH = Source(
    name="flash",
    model_type="flash",
    renames=(
        ("flash.embeddings.", "flash.embeddings."),
        ("flash.encoder.layers.{i}.", "flash.encoder.layers.{i}."),
        ("cls.predictions.", "cls.predictions."),
        ("classifier.", "classifier."),
        ("qa_outputs.", "qa_outputs."),
    ),
    ties=(("cls.predictions.decoder.weight", "flash.embeddings.word_embeddings.weight"),),
    tables={"flash.encoder.layers.{i}.rotary_pos_emb.freqs": rotary_frequencies},
)
