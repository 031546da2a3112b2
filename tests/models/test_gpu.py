"""What only a CUDA device can show; every test here is skipped without one."""

import copy

import pytest
import torch

import models

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 32}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES = {
    "GAUAlpha": SMALL | NO_DROPOUT | {"intermediate_size": 64, "attention_key_size": 16},
    "FLASHQuad": SMALL | {"s": 16},
    "FLASH": SMALL | {"query_key_dim": 48, "group_size": 16, "linear_divisor": "valid"},
}


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    config = getattr(models, f"{request.param}Config")(**FAMILIES[request.param])
    return getattr(models, f"{request.param}ForMaskedLM")(config)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    mask = (torch.arange(24) < torch.tensor([24, 17, 9]).unsqueeze(-1)).long()
    ids = torch.randint(5, 50, mask.shape) * mask
    positions = torch.tensor([[2, 5, 11], [3, 7, 0], [1, 0, 0]])
    labels = torch.full_like(ids, -100).scatter(1, positions, ids.gather(1, positions))
    labels[:, 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "masked_positions": positions}


def loss_and_gradients(model, batch, dtype=None):
    device = next(model.parameters()).device
    model.train()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
    loss.backward()
    return loss.item(), {name: parameter.grad.float().cpu() for name, parameter in model.named_parameters()}


def test_loss_and_gradients_are_those_of_the_cpu(model, batch):
    loss, gradients = loss_and_gradients(copy.deepcopy(model), batch)
    cuda_loss, cuda_gradients = loss_and_gradients(model.cuda(), batch)
    assert cuda_loss == pytest.approx(loss, abs=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(cuda_gradients[name], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_autocast_is_finite_and_close_to_fp32(model, batch, dtype):
    loss, _ = loss_and_gradients(copy.deepcopy(model), batch)
    cuda_loss, gradients = loss_and_gradients(model.cuda(), batch, dtype)
    assert cuda_loss == pytest.approx(loss, abs=0.1)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_step_never_waits_for_the_device(model, batch):
    model.cuda().train()
    batch = {name: tensor.cuda() for name, tensor in batch.items()}
    for warm in (True, False):
        torch.cuda.set_sync_debug_mode("default" if warm else "error")
        try:
            model(**batch).loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_joint_electra_has_the_losses_of_the_cpu(batch):
    from models.electra.config import ElectraOptions, generator_config
    from models.electra.joint_model import new_joint_model

    config = models.GAUAlphaConfig(**FAMILIES["GAUAlpha"])
    joint = new_joint_model(generator_config(config, 2), config, ElectraOptions())
    batch |= {"noise_seed": torch.arange(3)}
    expected = joint(**batch)
    joint.cuda()
    batch = {name: tensor.cuda() for name, tensor in batch.items()}
    outputs = joint(**batch)
    for name in ("generator_loss", "discriminator_loss"):
        assert getattr(outputs, name).item() == pytest.approx(getattr(expected, name).item(), abs=1e-3)
    assert torch.equal(outputs.replaced.cpu(), expected.replaced)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            loss = joint(**batch).loss
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in joint.parameters())
