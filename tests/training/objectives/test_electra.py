"""ELECTRA's losses and metrics as sums: nothing depends on how the batch is split."""

from types import SimpleNamespace

import pytest
import torch
from transformers import ElectraConfig

from models.electra.config import ElectraOptions, generator_config
from models.electra.joint_model import new_joint_model
from training.objectives.electra import (
    FallingTemperature,
    ReplacedTokenDetection,
    area_under_curve,
    detection_metrics,
    score_histogram,
)


def make(**options):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"vocab_size": 60, "embedding_size": 16, "max_position_embeddings": 32}
    config = ElectraConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return new_joint_model(generator_config(config, 4), config, ElectraOptions(**options))


@pytest.fixture
def batch():
    """Eight rows of unequal length with unequal numbers of masked tokens."""
    torch.manual_seed(1)
    rows, places = torch.arange(8).unsqueeze(1), torch.arange(12).unsqueeze(0)
    real = places < 5 + rows
    ids = torch.randint(5, 60, (8, 12)) * real
    chosen = real & (places > 0) & (places % (2 + rows % 3) == 1)
    positions = (chosen * places).sort(dim=1, descending=True).values[:, : int(chosen.sum(1).max())]
    return {
        "input_ids": ids.masked_fill(chosen, 4),
        "attention_mask": real.long(),
        "labels": ids.masked_fill(~chosen, -100),
        "masked_positions": positions,
        "noise_seed": torch.arange(8) * 1000,
    }


def add_up(parts):
    """Sums and metrics of several micro-batches, added."""
    sums, metrics = {}, {}
    for terms, measured in parts:
        sums = {name: sums.get(name, 0) + value for name, value in terms.items()}
        for name, value in measured.items():
            value = torch.stack(value) if isinstance(value, tuple) else value
            metrics[name] = metrics.get(name, 0) + value.double()
    return sums, metrics


@pytest.mark.parametrize("rows", [1, 4])
def test_sums_and_metrics_do_not_depend_on_the_split(batch, rows):
    model = make()
    objective = ReplacedTokenDetection(model, 12, 0.15)
    assert set(objective.weights.items()) == {("generator", 1.0), ("discriminator", 50.0)}
    pieces = [{name: value[i : i + rows] for name, value in batch.items()} for i in range(0, 8, rows)]
    sums, metrics = add_up(objective(model, piece) for piece in pieces)
    whole, all_metrics = add_up([objective(model, batch)])
    for name in whole:
        torch.testing.assert_close(sums[name], whole[name])
    assert metrics.keys() == all_metrics.keys() == {*objective.metrics, *objective.histograms}
    assert all(torch.equal(metrics[name], all_metrics[name]) for name in metrics)
    counts = [objective.counts(piece) for piece in pieces]
    for term in objective.weights:
        assert sum(count[term] for count in counts) == objective.counts(batch)[term]
    gradients = []
    for split in (pieces, [batch]):
        model.zero_grad()
        for piece in split:
            sums = objective(model, piece)[0]
            sum(objective.weights[term] * sums[term] / objective.counts(batch)[term] for term in sums).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_terms_and_metrics_follow_the_options(batch):
    for options, terms, metric in (
        ({"uniform_generator": True}, {"discriminator"}, "sampled_accuracy"),
        ({"electra_objective": False}, {"generator"}, "generator_accuracy"),
    ):
        model = make(**options)
        objective = ReplacedTokenDetection(model, 12, 0.15)
        sums, metrics = objective(model, batch)
        assert sums.keys() == objective.weights.keys() == terms
        assert metric in metrics and metrics.keys() == {*objective.metrics, *objective.histograms}
        assert objective.counts(batch).keys() == terms


def test_a_generators_hidden_tokens_are_those_that_its_input_changes(batch):
    model = make(electra_objective=False)
    objective = ReplacedTokenDetection(model, 12, 0.15)
    labelled = batch["labels"] != -100
    shown = labelled & (torch.arange(12) % 2 == 1)
    batch["input_ids"] = torch.where(shown, batch["labels"], batch["input_ids"])
    metrics = objective(model, batch)[1]
    right, hidden = metrics["generator_hidden_accuracy"]
    logits = model.generator(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    wanted = labelled & (batch["input_ids"] != batch["labels"])
    assert hidden == wanted.sum() and 0 < hidden < metrics["generator_accuracy"][1]
    assert right == ((logits.argmax(-1) == batch["labels"]) & wanted).sum()


def test_an_example_of_each_length_runs():
    model = make()
    objective = ReplacedTokenDetection(model, 20, 0.15)
    for length in objective.example_lengths:
        assert objective(model, objective.example(length))[0]["generator"].isfinite()


def test_documents_of_one_row_are_kept_apart(batch):
    model = make()
    objective = ReplacedTokenDetection(model, 12, 0.15)
    row = {name: value[7:] for name, value in batch.items()}
    row["labels"][:, 5:] = -100  # what is asked stands in the first document
    row["masked_positions"] = torch.tensor([[1, 3]])
    row["labels"][0, [1, 3]] = 7
    other = row | {"input_ids": torch.where(torch.arange(12) < 5, row["input_ids"], 9)}
    together = [objective(model, inputs)[0]["generator"].item() for inputs in (row, other)]
    assert together[0] != pytest.approx(together[1], abs=1e-5)
    places = torch.cat((torch.arange(5), torch.arange(7))).unsqueeze(0)
    apart = {"document_ids": torch.tensor([[1] * 5 + [2] * 7]), "position_ids": places}
    alone = [objective(model, inputs | apart)[0]["generator"].item() for inputs in (row, other)]
    assert alone[0] == pytest.approx(alone[1], abs=1e-6)


def test_the_temperature_falls_over_a_quarter_of_a_training(batch):
    """In steps or in time, whichever is further; what is measured is drawn at the last one throughout."""
    model, stop = make(temperature=0.5, initial_temperature=2.5), SimpleNamespace(share=0.0)
    objective, callback = ReplacedTokenDetection(model, 12, 0.15), FallingTemperature(model, stop)

    def begin(step, before=0, by_time=False):
        args = SimpleNamespace(steps_before=before, schedule_by_time=by_time)
        callback.on_step_begin(args, SimpleNamespace(global_step=step, max_steps=40), None)
        return model.training_temperature.item()

    assert [begin(step) for step in (0, 5, 10, 39)] == pytest.approx([2.5, 1.5, 0.5, 0.5])
    assert begin(0, before=10) == pytest.approx(2.5 - 2 * 4 * 10 / 50)
    stop.share = 0.125
    assert begin(4) == pytest.approx(1.7) and begin(4, by_time=True) == begin(5)
    begin(10)
    hot, cold = make(temperature=1.5), make(temperature=0.5)
    assert model.training
    for _ in range(2):
        assert objective(model, batch)[0]["discriminator"] == objective(hot, batch)[0]["discriminator"]
        hot, _ = cold.eval(), model.eval()


def test_metrics_of_a_small_example():
    logits = torch.tensor([[2.0, -1.0, 0.5, -3.0], [1.0, -2.0, 9.0, 9.0]])
    replaced = torch.tensor([[True, True, False, False], [True, False, False, True]])
    scored = torch.tensor([[True] * 4, [True, True, False, False]])
    metrics = detection_metrics(logits, replaced, scored)
    ratio = {name: (int(value[0]), int(value[1])) for name, value in metrics.items() if isinstance(value, tuple)}
    assert ratio == {
        "discriminator_accuracy": (4, 6),
        "discriminator_precision": (2, 3),
        "discriminator_recall": (2, 3),
        "share_replaced": (3, 6),
    }
    assert area_under_curve(metrics["discriminator_auc"].tolist()) == pytest.approx(8 / 9)


def test_the_area_under_the_curve_is_the_share_of_ordered_pairs():
    torch.manual_seed(0)
    replaced = torch.rand(1, 3000) < 0.1
    logits = torch.randn(1, 3000) * 2 - 2 + 1.5 * replaced
    pairs = logits[replaced].unsqueeze(1) - logits[~replaced].unsqueeze(0)
    expected = (pairs > 0).double().mean().item()
    histogram = score_histogram(logits, replaced, torch.ones_like(replaced))
    assert histogram.sum() == 3000
    assert area_under_curve(histogram.tolist()) == pytest.approx(expected, abs=1e-3)
    assert area_under_curve(score_histogram(logits, replaced, ~replaced).tolist()) == 0.5
    far = score_histogram(torch.tensor([[-1e9, 1e9]]), torch.tensor([[False, True]]), torch.ones(1, 2).bool())
    assert area_under_curve(far.tolist()) == 1.0
