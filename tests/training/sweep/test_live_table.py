"""The table of a sweep: what is shown of many jobs, and how a log is followed while it is written."""

from training.sweep.live_table import Row, TrainLog, clock, render


def test_a_long_table_keeps_what_runs_and_counts_the_rest():
    rows = [Row("t", "c", seed, "finished") for seed in range(50)] + [
        Row("t", "c", 99, "running", 0.5, 61.0, "0", 3725)
    ]
    lines = render(rows, 10)
    assert len(lines) == 10
    assert lines[1].split() == ["t", "c", "99", "running", "50%", "61.00", "0", "1:02:05"]
    assert lines[-1] == "51 jobs: 1 running, 50 finished; 43 not shown"
    assert (clock(61), clock(None)) == ("1:01", "")


def test_a_train_log_is_followed_through_half_lines_and_a_new_beginning(tmp_path):
    path = tmp_path / "train_log.jsonl"
    log = TrainLog(path)
    log.read()
    assert (log.share, log.best) == (None, None)
    path.write_text('{"step": 1, "max_steps": 4}\n{"step": 2, "max_steps": 4, "primary": 70.0}\n{"step": 3, "max')
    log.read()
    assert (log.share, log.best) == (0.5, 70.0)
    with open(path, "a") as file:
        file.write('_steps": 4, "primary": 60.0}\n')
    log.read()
    assert (log.share, log.best) == (0.75, 70.0)
    path.write_text('{"step": 1, "max_steps": 4}\n')
    log.read()
    assert (log.share, log.best) == (0.25, None)
