"""Numbers that are none: the run ends with a line and a code of its own, and nothing of them is written."""

import itertools
from pathlib import Path

import pytest
import torch

import run_mlm_wwm
from common.script import NOT_FINITE, one_line_errors
from tests.processes import run_together
from tests.runs import checkpoints, killed_in, read_log, weights
from training.loop.finiteness import NotFinite, Watch
from training.objectives.masked_lm import MaskedLanguageModelling


@pytest.fixture
def spoiled(monkeypatch):
    """(steps, factor) -> the losses of these training steps are multiplied with the factor."""

    def spoil(steps, factor=float("nan")):
        real, calls = MaskedLanguageModelling.__call__, []

        def spoiling(self, model, inputs):
            sums, metrics = real(self, model, inputs)
            if torch.is_grad_enabled():
                calls.append(1)
                if len(calls) in steps:
                    sums = {name: value * factor for name, value in sums.items()}
            return sums, metrics

        monkeypatch.setattr(MaskedLanguageModelling, "__call__", spoiling)

    return spoil


def test_a_run_without_numbers_ends_with_a_code_of_its_own_and_keeps_what_is_finite(flags, tmp_path, spoiled):
    spoiled(range(6, 99))
    with pytest.raises(SystemExit) as end, one_line_errors():
        run_mlm_wwm.main(flags(nan_steps=3, save_steps=5))
    assert end.value.code == NOT_FINITE == 3
    assert checkpoints(tmp_path / "run") == [5] and not (tmp_path / "run/model.safetensors").exists()
    assert [record.get("nonfinite_steps") for record in read_log(tmp_path / "run")] == [None] * 5 + [1] * 3
    with pytest.raises(NotFinite) as caught:
        run_mlm_wwm.main(flags(nan_steps=3, save_steps=5))
    message = str(caught.value)
    assert "in 3 steps in a row from step 6 on" in message and "--on_nan skip" in message
    assert f"{tmp_path / 'run/checkpoint-5'} is the last finite state" in message


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_rows_of_the_first_such_step_are_named(flags, monkeypatch, spoiled, accumulation):
    spoiled(range(3, 99))
    seen, real = [], run_mlm_wwm.EpochRows.__getitems__

    def watching(self, pairs):
        seen.append([row for _, row in pairs])
        return real(self, pairs)

    monkeypatch.setattr(run_mlm_wwm.EpochRows, "__getitems__", watching)
    with pytest.raises(NotFinite) as caught:
        run_mlm_wwm.main(flags(nan_steps=2, gradient_accumulation_steps=accumulation, group_by_length=True))
    step = 3 if accumulation == 1 else 2  # of the third call
    rows = sorted({row for batch in seen[(step - 1) * accumulation : step * accumulation] for row in batch})
    assert f"from step {step} on, whose rows are {', '.join(map(str, rows))};" in str(caught.value)


@pytest.mark.parametrize("changes", [{"save_steps": 2, "logging_steps": 100}, {"save_strategy": "no"}], ids=str)
def test_nothing_that_is_not_finite_is_written_however_few_the_steps(flags, tmp_path, changes):
    with pytest.raises(NotFinite, match="no checkpoint is the last finite state"):
        run_mlm_wwm.main(flags(learning_rate=9e37, max_grad_norm=0, max_steps=3, **changes))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_learning_rate_beyond_reason_is_no_success(flags, tmp_path):
    with pytest.raises(NotFinite):
        run_mlm_wwm.main(flags(learning_rate=1e9, max_steps=60, logging_steps=5))
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        assert all(tensor.isfinite().all() for tensor in weights(folder).values())


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "muon"])
def test_a_skipped_step_changes_neither_weights_nor_optimiser(flags, tmp_path, spoiled, optimizer):
    spoiled([3, 4], factor=float("inf"))
    which = {"optimizer": "muon"} if optimizer == "muon" else {"optim": optimizer}
    run_mlm_wwm.main(flags(on_nan="skip", nan_steps=3, save_steps=1, max_steps=6, logging_steps=5, **which))
    tensors = [weights(tmp_path / f"run/checkpoint-{step}") for step in range(1, 7)]
    changed = [
        any(not torch.equal(now[name], then[name]) for name in now) for then, now in itertools.pairwise(tensors)
    ]
    assert changed == [True, False, False, True, True] and all(x.isfinite().all() for x in tensors[-1].values())
    files = [tmp_path / f"run/checkpoint-{step}/optimizer.pt" for step in (2, 4)]
    states = [torch.load(file, weights_only=True)["state"] for file in files]
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one)
    assert [record.get("skipped_steps") for record in read_log(tmp_path / "run")] == [2, None]


def test_several_processes_agree_on_the_end_and_tell_it_once(flags, tmp_path):
    words = flags(learning_rate=9e37, max_grad_norm=0, nan_steps=3, save_strategy="no", logging_steps=2)
    run_together(Path(run_mlm_wwm.__file__), words, tmp_path, code=NOT_FINITE)
    errors = [(tmp_path / f"err-{rank}").read_text() for rank in (0, 1)]
    assert "was not finite in 3 steps in a row from step 2 on" in errors[0] and "not finite" not in errors[1]
    assert [record.get("nonfinite_steps") for record in read_log(tmp_path / "run")] == [1, 2]


def test_too_many_skipped_steps_end_the_run(flags, tmp_path, spoiled):
    spoiled(range(4, 99))
    with pytest.raises(NotFinite, match="in 3 steps in a row from step 4 on") as caught:
        run_mlm_wwm.main(flags(on_nan="skip", nan_steps=3, logging_steps=100, save_steps=5))
    assert "--on_nan" not in str(caught.value) and checkpoints(tmp_path / "run") == [5]


def test_skipped_steps_are_counted_across_a_restart(flags, tmp_path, spoiled):
    spoiled([1])
    with killed_in(4):
        run_mlm_wwm.main(flags(on_nan="skip", logging_steps=5))
    run_mlm_wwm.main(flags(on_nan="skip", logging_steps=5, max_steps=12))
    assert [record.get("skipped_steps") for record in read_log(tmp_path / "run")] == [1, None, None]


def test_the_overflows_of_a_loss_scale_are_counted_and_given_time():
    none = lambda tensor: tensor  # noqa: E731  one process
    assert look(Watch(3, False, False, none), "..ggg..") == (3, (3, 3))
    assert look(Watch(3, False, False, none), "gg.gg.") == (4, None)
    assert look(Watch(3, False, True, none), "gggggggg.") == (8, None)
    assert look(Watch(3, False, True, none), "g" * 27) == (27, (27, 1))
    assert look(Watch(3, False, True, none), ".lll.") == (3, (3, 2))


def look(watch, steps):
    """Whether there are too many after these steps: "." finite, "g" without a finite gradient, "l" without a loss."""
    for number, kind in enumerate(steps, 1):
        watch.loss(torch.tensor(float("nan") if kind == "l" else 1.0))
        watch.step(number, torch.tensor(1.0 if kind == "." else float("inf")))
    return watch.look("cpu"), watch.too_many()
