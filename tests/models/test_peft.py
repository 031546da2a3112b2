"""Adapters of peft on every family and head: they act, they learn, they merge; prompts go before what is read."""

import pytest
import torch

from tests.models.families import CASES, EVERY_CASE, make, rows, said

peft = pytest.importorskip("peft", reason="peft is optional: pip install -r requirements-extras.txt")
# peft trains a new head beside the adapters for these, and takes no adapter on the head itself.
KINDS = {"ForCausalLM": "CAUSAL_LM", "ForSequenceClassification": "SEQ_CLS"}
PROMPTED = [case for case in CASES if case[1] in KINDS]


@EVERY_CASE
@pytest.mark.parametrize("dora", [False, True])
def test_low_rank_adapters_on_every_projection(family, ending, dora):
    model, inputs = make(family, ending), rows(ending, labels=False)
    before = said(model, **inputs).detach()
    linears = [n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    config = peft.LoraConfig(r=2, lora_alpha=1, target_modules=linears, init_lora_weights=False, use_dora=dora)
    adapted = peft.get_peft_model(model, config).train()
    adapted(**rows(ending)).loss.backward()
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == len(linears) * (3 if dora else 2)
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    after = said(adapted.eval(), **inputs)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(said(adapted.merge_and_unload(), **inputs), after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "ending"), PROMPTED)
def test_prompts_that_are_trained(family, ending):
    model, inputs = make(family, ending), rows(ending, labels=False)
    width = model.get_input_embeddings().embedding_dim
    sizes = {"token_dim": width, "num_layers": 2, "num_attention_heads": 4, "num_transformer_submodules": 1}
    config = peft.PromptTuningConfig(task_type=KINDS[ending], num_virtual_tokens=3, **sizes)
    before = said(model, **inputs)[:, -12:].detach()
    adapted = peft.get_peft_model(model, config).train()
    adapted(**rows(ending)).loss.backward()
    assert adapted.prompt_encoder.default.embedding.weight.grad.abs().max() > 0
    assert (said(adapted.eval(), **inputs)[:, -12:] - before).abs().max() > 1e-3
