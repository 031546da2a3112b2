"""The generator's logits, made of hidden states by its output projection, are those of its own forward."""

import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers import ElectraConfig, ElectraForPreTraining

from models.electra.config import ElectraOptions
from models.electra.generator_head import TRANSFORMS, projected
from models.electra.joint_model import make_joint_model
from models.stock import accept_our_inputs

SHAPE = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
OWN = {"gau_alpha": {"attention_key_size": 8}, "flash": {"query_key_dim": 32}, "flash_quad": {"s": 16}}


@pytest.mark.parametrize("family", TRANSFORMS)
def test_every_family_gives_its_own_logits_at_masked_positions(family, batch):
    torch.manual_seed(0)
    shape = {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")} | OWN.get(family, {})
    config = transformers.AutoConfig.for_model(family, pad_token_id=0, **(shape if family in OWN else SHAPE))
    model = accept_our_inputs(transformers.AutoModelForMaskedLM.from_config(config)).eval()
    inputs = {"attention_mask": batch["attention_mask"], "position_ids": torch.arange(12).expand(4, -1)}
    expected = model(input_ids=batch["input_ids"], masked_positions=batch["masked_positions"], **inputs).logits
    hidden, matrix, bias = projected(model, batch["input_ids"], batch["masked_positions"], inputs)
    torch.testing.assert_close(F.linear(hidden, matrix, bias), expected)


def test_a_head_that_goes_on_after_its_output_matrix_is_taken_as_it_is(batch):
    shape = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0, "mask_token_id": 103}
    generator = transformers.EsmForMaskedLM(transformers.EsmConfig(**shape, token_dropout=False))  # adds a bias
    with torch.no_grad():
        generator.lm_head.bias.normal_()
    sizes = {"vocab_size": 200, "embedding_size": 32, "hidden_size": 64, "num_attention_heads": 4}
    discriminator = ElectraForPreTraining(ElectraConfig(**sizes, num_hidden_layers=1, intermediate_size=64))
    model = make_joint_model(generator, discriminator, ElectraOptions(untied_generator_embeddings=True)).eval()
    del batch["token_type_ids"]
    model.discriminator.config.type_vocab_size = 2
    output = model.generator(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    expected = F.cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(model(**batch).generator_loss, expected)


def test_a_family_without_an_entry_of_its_own_runs_its_generator_once(batch):
    shape = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 48, "intra_bottleneck_size": 32, "embedding_size": 32, "pad_token_id": 0}
    generator = transformers.MobileBertForMaskedLM(transformers.MobileBertConfig(**shape))
    options = ElectraOptions(electra_objective=False)
    model, calls = make_joint_model(generator, None, options).eval(), []
    generator.base_model.register_forward_hook(lambda *_: calls.append(1))
    output = model(**batch)
    logits = generator(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(output.generator_loss, expected)
    assert len(calls) == 2  # once by the joint model, once by this test
