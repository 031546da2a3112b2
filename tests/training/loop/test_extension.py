"""What a script adds to the loop is called where the loop says so."""

from functools import partial
from types import SimpleNamespace

import run_mlm_wwm
from tests.runs import checkpoints, read_log
from training.loop.checkpoints import fault
from training.loop.extension import Extension
from training.loop.trainer import Trainer


class Recording(Extension):
    log_file, kept_steps = "other.jsonl", (3,)

    def __init__(self):
        self.backwards, self.best = [], []

    def after_backward(self, trainer, model, inputs, counts):
        assert counts["mlm"] >= (inputs["labels"] != -100).sum() > 0
        self.backwards.append(trainer.state.global_step + 1)

    def after_evaluation(self, trainer, is_best):
        self.best.append(is_best)

    def add_to_checkpoint(self, trainer, folder):
        (folder / "more").write_text(str(trainer.state.global_step))


def test_an_extension_is_asked_after_each_backward_evaluation_and_checkpoint(flags, tmp_path, monkeypatch):
    extension = Recording()
    monkeypatch.setattr(run_mlm_wwm, "Trainer", partial(Trainer, extension=extension))
    changes = {"validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"}
    run_mlm_wwm.main(flags(max_steps=6, gradient_accumulation_steps=2, save_total_limit=1, **changes))
    assert not (tmp_path / "run/log.jsonl").exists()
    assert extension.backwards == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    losses = [record["primary"] for record in read_log(tmp_path / "run", "other.jsonl") if "primary" in record]
    assert extension.best == [loss < min(losses[:number], default=float("inf")) for number, loss in enumerate(losses)]
    kept = checkpoints(tmp_path / "run")
    assert {3, 6} <= set(kept) and len(kept) <= 3  # the newest, the best, and the one for good
    for step in kept:
        folder = tmp_path / f"run/checkpoint-{step}"
        assert (folder / "more").read_text() == str(step)
        assert fault(folder, SimpleNamespace(world_size=1, fp16=False, deepspeed=None, fsdp=None)) is None
