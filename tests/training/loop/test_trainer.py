"""The Trainer's sums: several losses with counts of their own, each over the whole global batch."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import TrainerCallback

import run_mlm_wwm
from common.errors import UserError
from models import GAUAlphaConfig, GAUAlphaForMaskedLM
from tests.runs import checkpoints, read_log, weights
from training.arguments import RunArguments, parse_arguments
from training.loop import trainer as trainer_module
from training.loop.metric_sums import SumEvaluator
from training.loop.trainer import Trainer
from training.objectives.base import Objective

SIZE, LENGTH = 8, 12
WEIGHT = 1.3  # of a target: counts need not be whole numbers


class TwoTerms(Objective):
    """A loss over labelled positions and a heavier one over all real tokens: their counts are unlike."""

    weights = {"few": 1.0, "many": 50.0}  # noqa: RUF012
    metrics = ("share",)
    histograms = {  # noqa: RUF012
        "median": (LENGTH + 1, lambda bins: next(n for n in range(LENGTH + 1) if 2 * sum(bins[: n + 1]) >= sum(bins)))
    }

    def __init__(self):
        super().__init__(LENGTH)

    def counts(self, inputs):
        return {"few": WEIGHT * (inputs["labels"] != -100).sum(), "many": inputs["attention_mask"].sum()}

    def __call__(self, model, inputs):
        logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
        few = torch.nn.functional.cross_entropy(logits.transpose(1, 2), inputs["labels"], reduction="sum")
        many = (logits.square().mean(-1) * inputs["attention_mask"]).sum()
        share = (inputs["attention_mask"].sum(), torch.ones_like(inputs["labels"]).sum())
        lengths = torch.bincount(inputs["attention_mask"].sum(1), minlength=LENGTH + 1)
        return {"few": few, "many": many}, {"share": share, "median": lengths}


class Rows(Dataset):
    def __getitems__(self, indices):
        return indices


def collate(rows):
    ids = torch.tensor([[(7 * row + place) % 30 + 1 for place in range(LENGTH)] for row in rows])
    mask = torch.tensor([[int(place < 3 + row) for place in range(LENGTH)] for row in rows])
    labels = ids.masked_fill(torch.arange(LENGTH) >= torch.tensor(rows)[:, None] // 2, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Batches:
    """The same eight rows in every step."""

    step_size, steps, start = SIZE, 3, 0

    def __init__(self, micro):
        self.micro = micro

    def epoch_at(self, place):
        return place / SIZE

    def __len__(self):
        return self.steps * SIZE // self.micro

    def __iter__(self):
        while True:
            yield from (list(range(first, first + self.micro)) for first in range(0, SIZE, self.micro))


def run(folder, micro):
    flags = [
        "--output_dir",
        str(folder),
        "--optim",
        "sgd",
        "--learning_rate",
        "0.1",
        "--report_to",
        "none",
        "--use_cpu",
    ]
    flags += ["--logging_steps", "1", "--max_grad_norm", "1e9", "--lr_scheduler_type", "constant"]
    flags += ["--gradient_accumulation_steps", str(SIZE // micro), "--save_strategy", "no"]
    (args,) = parse_arguments([RunArguments], flags)
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = GAUAlphaConfig(**shape, attention_key_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    objective, batches = TwoTerms(), Batches(micro)
    shares = [list(range(first, first + micro)) for first in range(0, SIZE, micro)]
    trainer = Trainer(
        model=GAUAlphaForMaskedLM(config),
        args=args,
        objective=objective,
        train_dataset=Rows(),
        train_batches=batches,
        data_collator=collate,
        evaluator=SumEvaluator(args, objective, Rows(), shares, collate),
    )
    trainer.train()
    trainer.save_model()
    return trainer, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("micro", [1, 4])
def test_two_losses_with_their_own_counts_do_not_depend_on_accumulation(tmp_path, micro):
    whole_trainer, whole = run(tmp_path / "whole", SIZE)
    trainer, parts = run(tmp_path / "parts", micro)
    for one, other in zip(whole, parts, strict=True):
        for name in ("loss", "few_loss", "many_loss", "share", "median", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-5)
        assert one["loss"] == pytest.approx(one["few_loss"] + 50 * one["many_loss"], rel=1e-6)
    ends = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-5, atol=1e-6, msg=name)
    assert whole_trainer.evaluate() == pytest.approx(trainer.evaluate(), rel=1e-5)


def test_the_loss_is_the_sum_over_the_step_by_its_count(tmp_path):
    trainer, records = run(tmp_path / "run", 2)
    torch.manual_seed(0)
    model = GAUAlphaForMaskedLM(trainer.model.config)
    batch = collate(list(range(SIZE)))
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    few = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"]) / WEIGHT
    many = logits.square().mean(-1)[batch["attention_mask"] == 1].mean()
    loss = few + 50 * many
    loss.backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters()]))
    assert records[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert records[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_fp16s_scale_begins_by_the_rows_of_a_step(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(trainer_module, "raise_first_scale", lambda *arguments: calls.append(arguments))
    flags = ["--output_dir", str(tmp_path), "--report_to", "none", "--use_cpu"]
    (args,) = parse_arguments([RunArguments], flags)
    model, objective = torch.nn.Linear(2, 2), TwoTerms()
    Trainer(model=model, args=args, objective=objective)
    Trainer(model=model, args=args, objective=objective, train_dataset=Rows(), train_batches=Batches(SIZE))
    assert calls == [(None, objective, 0), (None, objective, SIZE)]


@pytest.mark.parametrize("optimizer", [["--optim", "sgd"], ["--adam_bias_correction", "false"]], ids=lambda w: w[0])
def test_an_update_skipped_for_an_overflow_does_not_hold_the_schedule_up(tmp_path, monkeypatch, optimizer):
    flags = ["--output_dir", str(tmp_path), "--report_to", "none", "--use_cpu", "--logging_steps", "1"]
    flags += ["--learning_rate", "0.1", "--schedule", "original_linear", "--save_strategy", "no", *optimizer]
    (args,) = parse_arguments([RunArguments], flags)
    shape = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    model = GAUAlphaForMaskedLM(GAUAlphaConfig(**shape, attention_key_size=8))
    rows = {"train_dataset": Rows(), "train_batches": Batches(SIZE), "data_collator": collate}
    trainer = Trainer(model=model, args=args, objective=TwoTerms(), **rows)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    weight, seen, skipped = next(model.parameters()), [], []
    weight.register_hook(lambda gradient: gradient * torch.inf if len(seen) == 1 else gradient)

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
            seen.append(weight.detach().clone())
            skipped.append(trainer.accelerator.optimizer_step_was_skipped)

    trainer.add_callback(Watch())
    trainer.train()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2]) and seen[2].isfinite().all()
    assert trainer.accelerator.scaler.get_scale() == 4.0  # halved once
    if "sgd" in optimizer:
        assert skipped == [False, True, False]
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["learning_rate"] for record in records] == pytest.approx([0.1, 0.1 * 2 / 3, 0.1 / 3])
    assert trainer.lr_scheduler.last_epoch == 3


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"optim": "adamw_bnb_8bit"}, "--optim adamw_bnb_8bit: You need to install `bitsandbytes`"),
        ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, "--optim galore_adamw: You need to install"),
        ({"optim": "grokadamw"}, "--optim grokadamw: Please install grokadamw"),
        ({"optim": "sgd", "optim_args": "foo=1"}, "--optim_args foo=1 has no effect on --optim sgd"),
        ({"optim_args": "foo"}, "--optim adamw_torch_fused"),
        ({"lr_scheduler_kwargs": '{"foo": 1}'}, "--lr_scheduler_kwargs {'foo': 1}: "),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "--lr_scheduler_type warmup_stable_decay: .*num_decay_steps"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": "x"}'}, "--lr_scheduler_kwargs "),
        ({"report_to": "wandb"}, "--report_to wandb: WandbCallback requires wandb"),
        ({"report_to": "nonsense"}, "--report_to nonsense: nonsense is not supported"),
        ({"push_to_hub": True}, "--push_to_hub: the hub does not answer"),
        ({"eval_on_start": True}, "--eval_on_start needs held-out data"),
        ({"metric_for_best_model": "loss"}, "--metric_for_best_model needs held-out data"),
        (
            {"metric_for_best_model": "nonsense", "validation_split": 0.2},
            "one of loss, mlm_accuracy, mlm_hidden_accuracy, perplexity, got n",
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_cannot_train_is_told_before_a_folder_is_touched(flags, tmp_path, monkeypatch, changes, line):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=re.escape(line).replace(r"\.\*", ".*")) as caught:
        run_mlm_wwm.main(flags(**changes))
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("metric", ["eval_loss", "mlm_accuracy"])
def test_the_best_model_is_loaded_at_the_end_wherever_it_was(flags, tmp_path, metric):
    """Learning rates so high that it gets worse; a checkpoint of the best step lies between those of --save_steps."""
    changes = {"load_best_model_at_end": True, "metric_for_best_model": metric, "validation_split": 0.2}
    changes |= {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 6,
        "save_total_limit": 1,
        "learning_rate": 0.3,
        "seed": 3,
    }
    run_mlm_wwm.main(flags(lr_scheduler_type="constant", **changes))
    records = [record for record in read_log(tmp_path / "run") if "primary" in record]
    best = (max if metric == "mlm_accuracy" else min)(records, key=lambda record: record["primary"])
    assert best["step"] not in (6, 12)
    kept, model = weights(tmp_path / f"run/checkpoint-{best['step']}"), weights(tmp_path / "run")
    assert all(torch.equal(kept[name], model[name]) for name in model)
    assert checkpoints(tmp_path / "run") == [best["step"], 12]


class Doubled:
    def __getitems__(self, indices):
        return [2 * index for index in indices]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_of_the_sampler_and_no_random_number_is_drawn(workers):
    args = SimpleNamespace(
        dataloader_prefetch_factor=2, dataloader_pin_memory=False, dataloader_multiprocessing_context="fork"
    )
    before = torch.get_rng_state()
    loader = Trainer.loader(SimpleNamespace(args=args), Doubled(), [[3, 1], [2]], tuple, workers)
    assert list(loader) == [(6, 2), (4,)]
    assert torch.equal(torch.get_rng_state(), before)
