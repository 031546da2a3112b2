"""The joint ELECTRA model: published numbers, what is shared, what is sampled, what is exported, what is refused."""

import json
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForPreTraining, ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

import models
from benchmarks.originals.electra import OriginalElectra
from models.electra import vocabulary_loss
from models.electra.config import ElectraOptions, electra_configs, generator_config
from models.electra.joint_model import (
    ElectraForJointPreTraining,
    discriminator_loss,
    make_joint_model,
    new_joint_model,
)
from models.electra.vocabulary_loss import VocabularyLoss

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FIXTURE = {"vocab_size": 200, "embedding_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 32}
GAU = {"vocab_size": 200, "hidden_size": 24, "num_hidden_layers": 4, "intermediate_size": 40, "attention_key_size": 8}


def configs(kind="electra", **changes):
    """A small generator and discriminator."""
    if kind == "gau_alpha":
        discriminator = models.GAUAlphaConfig(**GAU | NO_DROPOUT | changes)
        return generator_config(discriminator, 4), discriminator
    discriminator = ElectraConfig(
        hidden_size=64, num_attention_heads=4, intermediate_size=256, **FIXTURE | NO_DROPOUT | changes
    )
    return generator_config(discriminator, 4), discriminator


def make(kind="electra", changes=None, **options):
    torch.manual_seed(0)
    return new_joint_model(*configs(kind, **changes or {}), ElectraOptions(**options))


def fill(model):
    """The published parity case's parameters, of the generator by name and then of the discriminator's own."""
    generator = sorted(model.generator.named_parameters())
    shared = {id(parameter) for _, parameter in generator}
    own = sorted(model.discriminator.named_parameters(), key=lambda pair: pair[0])
    listed = generator + [(name, parameter) for name, parameter in own if id(parameter) not in shared]
    assert len(listed) == 82
    with torch.no_grad():
        for number, (name, parameter) in enumerate(listed):
            values = 0.1 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + number)
            parameter.copy_(values.view(parameter.shape) + float(name.endswith("LayerNorm.weight")))


def take_likeliest(weights, *_):
    return weights.argmax(-1)


def assert_norms(model):
    def norm(parameters):
        return torch.cat([parameter.grad.flatten() for parameter in parameters]).norm().item()

    table = model.generator.electra.embeddings.word_embeddings.weight
    shared = {id(parameter) for parameter in model.generator.parameters()}
    own = [parameter for parameter in model.discriminator.parameters() if id(parameter) not in shared]
    norms = (
        norm(list(model.parameters())),
        norm([table]),
        norm(model.generator.electra.encoder.parameters()),
        norm(own),
    )
    assert norms == pytest.approx((43.949798, 2.204949, 3.922076, 43.388943), abs=1e-5)


def test_the_published_joint_case(batch, monkeypatch):
    """Numbers of richarddwang/electra_pytorch in float64, with sampling replaced by the argmax."""
    monkeypatch.setattr(vocabulary_loss, "sample_tokens", take_likeliest)
    model = make().double().eval()
    fill(model)
    output = model(**batch)
    assert output.masked == 6 and output.scored.sum() == 41 and output.replaced.sum() == 6
    original = batch["labels"][batch["labels"] != -100].tolist()
    assert original == [132, 187, 180, 166, 115, 185]
    assert (output.generator_loss / 6).item() == pytest.approx(5.985103769, abs=1e-8)
    assert (output.discriminator_loss / 41).item() == pytest.approx(0.652644125, abs=1e-8)
    assert output.loss.item() == pytest.approx(38.617310028, abs=1e-7)
    output.loss.backward()
    assert_norms(model)


def test_the_benchmarks_opponent_passes_the_same_case(batch, monkeypatch):
    model = OriginalElectra(*configs()).double().eval()
    fill(model)
    monkeypatch.setattr(model, "sample", lambda logits: logits.argmax(-1))
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "labels", "token_type_ids")]
    generator, discriminator, total, tokens = model(*inputs)
    assert tokens.tolist() == [108, 9, 9, 108, 9, 108]
    expected = (5.985103769, 0.652644125, 38.617310028)
    assert (generator.item(), discriminator.item(), total.item()) == pytest.approx(expected, abs=1e-7)
    total.backward()
    assert_norms(model)


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        ((0.0, 0.0), (2.011855, 0.738897, 38.956688)),
        ((0.0, 0.1), (2.011855, 0.738629, 38.943283)),
        ((0.1, 0.0), (2.083041, 0.738897, 39.027874)),
        ((0.1, 0.1), (2.083041, 0.738629, 39.014469)),
    ],
)
def test_the_published_losses(smoothing, expected):
    logits = 2 * torch.sin(torch.arange(21.0)).view(3, 7)
    generator = (
        VocabularyLoss.apply(logits, None, None, torch.tensor([1, 3, 6]), None, None, smoothing[0], False)[0] / 3
    )
    scores = torch.cos(torch.arange(12.0)).view(2, 6)
    replaced, scored = torch.zeros(2, 6, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    replaced[0, 1] = replaced[1, 2] = True
    scored[1, 4:] = False
    discriminator = discriminator_loss(scores, replaced, scored, smoothing[1]) / 10
    losses = (generator.item(), discriminator.item(), (generator + 50 * discriminator).item())
    assert losses == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ("small", (13_549_057, 4_620_026, 14_196_219)),
        ("base", (109_483_009, 33_740_602, 119_386_427)),
        ("large", (335_142_913, 51_295_290, 354_655_291)),
    ],
)
def test_published_sizes_have_the_published_numbers_of_parameters(size, counts):
    with torch.device("meta"):
        model = new_joint_model(*electra_configs(size, 30522), ElectraOptions())
    parts = (model.discriminator, model.generator, model)
    assert tuple(sum(parameter.numel() for parameter in part.parameters()) for part in parts) == counts


def test_forward_takes_the_published_number_of_operations():
    """7.82e11 a step of 128 rows of 128 tokens: twice the forward's, with sparse look-ups (google's script)."""
    model = new_joint_model(*electra_configs("small", 30522), ElectraOptions()).eval()
    rows, length, masked = 2, 128, 20  # the script's 15.6 %
    ids = torch.randint(1000, 30522, (rows, length))
    positions = torch.arange(1, masked + 1).expand(rows, -1)
    labels = torch.full_like(ids, -100).scatter_(1, positions, ids.gather(1, positions))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids, torch.ones_like(ids), labels, positions)
    assert 2 * counter.get_total_flops() * 128 / rows == pytest.approx(7.82e11, rel=0.1)


# What is sampled and what the discriminator is asked


def changed_ids(model, batch):
    """The discriminator's input."""
    seen = []
    hook = model.discriminator.base_model.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("input_ids")), with_kwargs=True
    )
    output = model(**batch)
    hook.remove()
    return seen[0], output


def test_the_discriminator_reads_samples_at_masked_places_and_is_asked_for_what_differs(batch):
    changed, output = changed_ids(make().eval(), batch)
    chosen = batch["labels"] != -100
    original = torch.where(chosen, batch["labels"], batch["input_ids"])
    assert torch.equal(changed[~chosen], original[~chosen])
    assert not (changed[chosen] == 103).any()  # the mask itself is gone, also where the token was kept
    assert torch.equal(output.replaced, changed != original)
    assert torch.equal(output.scored, batch["attention_mask"].bool())
    assert output.sampled_correct == (changed == original)[chosen].sum()


def test_padding_is_in_no_loss(batch):
    model = make().double().eval()
    longer = {name: F.pad(value, (0, 5)) for name, value in batch.items() if value.dim() == 2}
    longer["labels"][:, 12:] = -100
    longer |= {"masked_positions": batch["masked_positions"], "noise_seed": batch["noise_seed"]}
    for name in ("loss", "generator_loss", "discriminator_loss"):
        torch.testing.assert_close(getattr(model(**longer), name), getattr(model(**batch), name))


def test_noise_belongs_to_the_sample_and_the_place(batch):
    """However the batch is split, ordered or padded, a token is replaced by the same one."""
    model = make().eval()
    whole, _ = changed_ids(model, batch)
    order = torch.tensor([2, 0, 3, 1])
    shuffled, _ = changed_ids(model, {name: value[order] for name, value in batch.items()})
    assert torch.equal(shuffled, whole[order])
    for row in range(4):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        count = int((alone["labels"] != -100).sum())
        alone["masked_positions"] = alone["masked_positions"][:, :count].flip(1)
        assert torch.equal(changed_ids(model, alone)[0][0], whole[row])
    other, _ = changed_ids(model, batch | {"noise_seed": batch["noise_seed"] + 1})
    assert not torch.equal(other, whole)


def test_without_seeds_noise_comes_from_torchs_generator(batch):
    model = make().eval()
    del batch["noise_seed"]
    torch.manual_seed(3)
    first, second = (changed_ids(model, batch)[0] for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(changed_ids(model, batch)[0], first) and not torch.equal(first, second)


def test_logits_at_masked_places_give_the_loss_and_gradients_of_all_logits(batch):
    model = make().double()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    stock = ElectraForMaskedLM(model.generator.config).double()
    stock.load_state_dict(model.generator.state_dict())
    expected = stock(**inputs, labels=batch["labels"]).loss
    expected.backward()
    output = model(**batch)
    (output.generator_loss / output.masked).backward()
    torch.testing.assert_close(output.generator_loss / output.masked, expected)
    for (name, parameter), other in zip(model.generator.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)


def test_a_batch_without_masks_has_a_finite_loss(batch):
    model = make().train()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    output = model(**batch)
    output.loss.backward()
    assert output.masked == 0 and output.generator_loss == 0 and not output.replaced.any()
    assert output.loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["electra", "gau_alpha"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_near(kind, dtype, batch):
    model = make(kind)
    exact = model(**batch)
    with torch.autocast("cpu", dtype):
        output = model(**batch)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.generator_loss.item() == pytest.approx(exact.generator_loss.item(), rel=0.01)
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["electra", "gau_alpha"])
def test_packed_documents_are_those_of_each_alone(kind, batch):
    model = make(kind).eval()
    rows = [{name: value[row : row + 1, :12] for name, value in batch.items() if value.dim() == 2} for row in (0, 1)]
    documents = torch.tensor([[1] * 12 + [2] * 12])
    packed = {name: torch.cat([row[name] for row in rows], dim=1) for name in rows[0]}
    packed["masked_positions"] = torch.tensor([[2, 7, 15, 21]])
    output = model(
        **packed | {"attention_mask": documents.unsqueeze(2) == documents.unsqueeze(1)},
        position_ids=torch.arange(12).repeat(2).unsqueeze(0),
        real_tokens=torch.ones_like(documents),
        noise_seed=torch.tensor([1]),
    )
    losses = sum(model(**row, noise_seed=torch.tensor([1])).generator_loss for row in rows)
    torch.testing.assert_close(output.generator_loss, losses)
    assert output.scored.all()


# What is shared, and the options


def test_the_whole_embedding_block_is_shared_and_stays_so(tmp_path, batch):
    model = make()
    model.save_pretrained(tmp_path)
    again = ElectraForJointPreTraining.from_pretrained(tmp_path)
    for joint in (model, again):
        own, other = joint.generator.electra.embeddings, joint.discriminator.electra.embeddings
        names = [name for name, _ in own.named_parameters()]
        assert len(names) == 5 and "LayerNorm.weight" in names
        assert all(own.get_parameter(name) is other.get_parameter(name) for name in names)
        assert joint.generator.generator_lm_head.weight is other.word_embeddings.weight
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
    first, second = (joint.eval()(**batch) for joint in (model, again))
    assert torch.equal(first.logits, second.logits) and first.loss == second.loss


def test_untied_embeddings_are_two_blocks(batch):
    model = make(untied_generator_embeddings=True)
    own, other = model.generator.electra.embeddings, model.discriminator.electra.embeddings
    assert not {id(p) for p in own.parameters()} & {id(p) for p in other.parameters()}
    assert model.generator.generator_lm_head.weight is own.word_embeddings.weight
    model(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_tied_generator_is_the_discriminators_encoder_with_another_head(batch, tmp_path):
    model = make(untied_generator=False)
    assert model.generator.config.hidden_size == 64
    own, other = model.generator.electra, model.discriminator.electra
    assert all(other.get_parameter(name) is parameter for name, parameter in own.named_parameters())
    model.save_pretrained(tmp_path)
    again = ElectraForJointPreTraining.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_a_uniform_generator_has_no_parameters_and_no_loss(batch):
    model = make(uniform_generator=True)
    assert model.generator is None
    output = model(**batch)
    assert output.generator_loss is None and output.masked == 6
    torch.testing.assert_close(output.loss, 50 * output.discriminator_loss / 41)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_the_electra_objective_it_is_a_masked_lm_of_full_size(batch, tmp_path):
    model = make(electra_objective=False)
    assert model.discriminator is None and model.generator.config.hidden_size == 64
    output = model(**batch)
    torch.testing.assert_close(output.loss, output.generator_loss / 6)
    assert output.logits is None and output.sampled_correct is None
    model.export(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["generator"]


def test_weights_of_the_losses(batch):
    plain, weighted = (make(**options).eval()(**batch) for options in ({}, {"gen_weight": 2.0, "disc_weight": 7.0}))
    torch.testing.assert_close(weighted.generator_loss, plain.generator_loss)
    torch.testing.assert_close(weighted.loss, 2 * plain.generator_loss / 6 + 7 * plain.discriminator_loss / 41)


def test_disallow_correct_replaces_every_masked_token(batch):
    assert make(disallow_correct=True).eval()(**batch).replaced.sum() == 6


def test_the_discriminator_alone_gets_no_gradient_to_the_generator(batch):
    model = make(untied_generator_embeddings=True)
    output = model(**batch)
    (output.discriminator_loss / 41).backward()
    assert not any(p.grad.any() for p in model.generator.parameters() if p.grad is not None)


def test_initial_loss_is_that_of_guessing(batch):
    both = electra_configs("small", 30522)
    for config in both:
        config.num_hidden_layers = 1
    with torch.no_grad():
        model = new_joint_model(*both, ElectraOptions()).eval()
        assert model(**batch).loss.item() == pytest.approx(math.log(30522) + 50 * math.log(2), rel=0.03)


def test_initialisations():
    for init, spread, most in (("hf", 0.02, 0.2), ("google", 0.0176, 0.04)):
        both = electra_configs("small", 1000)
        for config in both:
            config.num_hidden_layers = 1
        model = new_joint_model(*both, ElectraOptions(init=init))
        table = model.generator.get_input_embeddings().weight
        kernel = model.discriminator.electra.encoder.layer[0].intermediate.dense.weight
        for matrix in (table[1:], kernel):
            assert matrix.std().item() == pytest.approx(spread, rel=0.02) and matrix.abs().max() <= most
        wanted = (0.072, 0.102, 0.088) if init == "google" else (0.02, 0.02, 0.02)
        last = model.discriminator.discriminator_predictions.dense_prediction.weight
        projections = [part.electra.embeddings_project.weight for part in (model.discriminator, model.generator)]
        for matrix, expected in zip((*projections, last), wanted, strict=True):
            assert matrix.std().item() == pytest.approx(expected, rel=0.15)


# Folders


@pytest.mark.parametrize("kind", ["electra", "gau_alpha"])
def test_exports_are_plain_folders_that_load_bit_equal(kind, batch, tmp_path):
    model = make(kind).eval()
    model.export(tmp_path)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    discriminator, info = AutoModelForPreTraining.from_pretrained(tmp_path / "discriminator", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(discriminator) in (ElectraForPreTraining, models.GAUAlphaForPreTraining)
    generator = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "generator")
    for network, part in ((discriminator.eval(), model.discriminator), (generator.eval(), model.generator)):
        assert all(torch.equal(tensor, part.state_dict()[name]) for name, tensor in network.state_dict().items())
        with torch.no_grad():
            assert torch.equal(network(**inputs).logits, part(**inputs).logits)
    assert generator.get_output_embeddings().weight is generator.get_input_embeddings().weight
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "discriminator")
    assert classifier(**inputs).logits.shape == (4, 2)


def test_published_folders_continue(batch, tmp_path):
    """google's and hfl's folders: an older transformers' config, a table of positions, a copy of the tied matrix."""
    source = make().eval()
    source.export(tmp_path)
    for name in ("generator", "discriminator"):
        state = load_file(tmp_path / name / "model.safetensors")
        state["electra.embeddings.position_ids"] = torch.arange(32).unsqueeze(0)
        if name == "generator":
            state["generator_lm_head.weight"] = state["electra.embeddings.word_embeddings.weight"].clone()
        save_file(state, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((tmp_path / name / "config.json").read_text())
        kept = {k: v for k, v in config.items() if k not in ("dtype", "transformers_version", "tie_word_embeddings")}
        (tmp_path / name / "config.json").write_text(json.dumps(kept))
    generator = ElectraForMaskedLM.from_pretrained(tmp_path / "generator")
    discriminator = ElectraForPreTraining.from_pretrained(tmp_path / "discriminator")
    model = make_joint_model(generator, discriminator, ElectraOptions()).eval()
    assert torch.equal(model(**batch).logits, source(**batch).logits)
    assert model.generator.electra.embeddings.word_embeddings.weight is discriminator.get_input_embeddings().weight


def test_any_masked_lm_and_any_encoder(batch):
    """A BERT generator with a RoBERTa discriminator, each with embeddings of its own."""
    shape = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 40}
    options = ElectraOptions(untied_generator_embeddings=True)
    model = new_joint_model(transformers.BertConfig(**shape), transformers.RobertaConfig(**shape), options)
    del batch["token_type_ids"]  # RoBERTa has one type
    output = model(**batch)
    output.loss.backward()
    assert output.logits.shape == (4, 12) and output.loss.isfinite()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gau_alpha", {"electra_objective": False}),
        pytest.param("electra", {"initial_temperature": 2.0}, marks=pytest.mark.slow),
    ],
)
def test_it_trains_under_torch_compile(kind, options, batch):
    torch.compiler.reset()
    model = make(kind, {"num_hidden_layers": 1} | NO_DROPOUT, **options)
    expected = model(**batch).loss
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        model.zero_grad()
        loss = compiled(**batch).loss
        loss.backward()
        torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


# What is refused


def test_networks_that_do_not_fit_are_refused():
    generator, discriminator = configs()
    small, options = ElectraForMaskedLM(generator), ElectraOptions()
    with pytest.raises(ValueError, match="size must be one of small, base, large, got 'huge'"):
        electra_configs("huge", 100)
    with pytest.raises(ValueError, match="must have one vocabulary, got 200 and 150 entries"):
        make_joint_model(small, ElectraForPreTraining(configs(vocab_size=150)[1]), options)
    with pytest.raises(ValueError, match=r"embeddings.* of the same names and shapes .* set untied_generator_embedd"):
        make_joint_model(small, ElectraForPreTraining(configs(embedding_size=16)[1]), options)
    with pytest.raises(ValueError, match="discriminator must be given with these options, got none"):
        make_joint_model(small, None, options)
    with pytest.raises(ValueError, match="generator must be absent with these options, got one"):
        make_joint_model(small, ElectraForPreTraining(discriminator), ElectraOptions(uniform_generator=True))
