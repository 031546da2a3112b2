"""Opponents from PyPI for benchmarks/train_step.py, set to the configuration of the model they stand against.

bert4torch's GAU_alpha and FLASH-pytorch's FLASHTransformer compute the same equations but for what each class says;
transformers' BertForMaskedLM is the encoder that the gated unit replaces: as many layers of attention and MLP have
about as many parameters as twice as many gated units (Su 2022), so it gets half the layers.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from importlib import import_module
from unittest.mock import MagicMock

import torch
from transformers import BertConfig, BertForMaskedLM

logger = logging.getLogger(__name__)


class Bert4torchGAU:
    """bert4torch's GAU_alpha; it has no dropout on attention and none that we add."""

    family, module = "gau_alpha", "bert4torch.models.gau_alpha.modeling_gau_alpha"

    @staticmethod
    def build(config) -> torch.nn.Module:
        from bert4torch.models.gau_alpha.modeling_gau_alpha import GAU_alpha

        return GAU_alpha(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=1,
            intermediate_size=config.intermediate_size,
            attention_key_size=config.attention_key_size,
            hidden_act="swish",
            dropout_rate=config.hidden_dropout_prob,
            attention_probs_dropout_prob=config.attention_probs_dropout_prob,
            max_position_embeddings=config.max_position_embeddings,
            segment_vocab_size=config.type_vocab_size,
            pos_emb_type="rotary",
            use_bias=False,
            is_dropout=True,
            layer_norm_eps=config.layer_norm_eps,
            with_mlm="linear",
        )

    @staticmethod
    def logits(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        outputs = model(ids, torch.zeros_like(ids))
        return outputs[-1] if isinstance(outputs, (list, tuple)) else outputs


class LucidrainsFLASH:
    """FLASH-pytorch's FLASHTransformer: a layer norm and an untied projection with bias for a head."""

    family, module = "flash", "flash_pytorch"

    @staticmethod
    def build(config) -> torch.nn.Module:
        from flash_pytorch import FLASHTransformer

        return FLASHTransformer(
            num_tokens=config.vocab_size,
            dim=config.hidden_size,
            depth=config.num_hidden_layers,
            group_size=config.group_size,
            query_key_dim=config.query_key_dim,
            expansion_factor=config.expansion_factor,
            norm_type=config.norm_type,
            shift_tokens=config.shift_tokens,
        )

    @staticmethod
    def logits(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(ids, mask=mask.bool())


class TransformersBERT:
    """BertForMaskedLM of half the layers, which is about the same number of parameters; logits everywhere."""

    family, module = "flash_quad", "transformers"

    @staticmethod
    def build(config) -> torch.nn.Module:
        return BertForMaskedLM(
            BertConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers // 2,
                num_attention_heads=max(1, config.hidden_size // 64),
                intermediate_size=4 * config.hidden_size,
                max_position_embeddings=config.max_position_embeddings,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
            )
        )

    @staticmethod
    def logits(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(ids, attention_mask=mask).logits


class TorchvisionStandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules by torchvision's names, where it is not installed (its wheels want a CUDA build of torch).

    bert4torch imports it for images as soon as any of its models is imported; no text model calls it.
    """

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return MagicMock(__path__=[], __version__="0")

    def exec_module(self, module):
        """Nothing to run."""


PEERS = {peer.__name__: peer for peer in (Bert4torchGAU, LucidrainsFLASH, TransformersBERT)}


def available(family: str) -> list[str]:
    """Names of a family's peers that can be imported; a line says why another cannot."""
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(TorchvisionStandIn())
    names = []
    for name, peer in PEERS.items():
        if peer.family != family:
            continue
        try:
            import_module(peer.module)
        except ImportError as error:
            logger.warning("%s is skipped: %s; see benchmarks/requirements.txt", name, error)
        else:
            names.append(name)
    return names
