"""The speed of a run is that of its training steps."""

import time

import run_mlm_wwm
from tests.runs import read_log
from training.loop import progress, saving
from training.loop.metric_sums import SumEvaluator


def test_what_is_no_training_is_left_out_of_the_logged_speed(flags, tmp_path, monkeypatch):
    """Measuring the hardware, evaluating and saving take half a second each; a step does not."""

    def slowed(owner, name):
        real = getattr(owner, name)

        def slow(*args, **kwargs):
            time.sleep(0.5)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    slowed(progress, "measured_peak")
    slowed(saving, "publish")
    slowed(SumEvaluator, "__call__")
    changes = {"validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "max_steps": 6}
    run_mlm_wwm.main(flags(**changes))
    records = [record for record in read_log(tmp_path / "run") if "loss" in record]
    seen = [0, *(record["tokens_seen"] for record in records)]
    seconds = [(b - a) / record["tokens_per_second"] for a, b, record in zip(seen, seen[1:], records, strict=False)]
    assert max(seconds) < 0.4, seconds
