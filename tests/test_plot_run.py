import json

import pytest

from plot_run import curve, main


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    records = [
        {"step": 1, "loss": 9.0, "mlm_accuracy": 0.01, "tokens_seen": 1e6},
        {"step": 1, "eval_loss": 8.0, "eval_mlm_accuracy": 0.02},
        {"step": 2, "loss": 7.0, "mlm_accuracy": 0.05, "tokens_seen": 2e6},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_an_evaluation_stands_at_the_tokens_seen_before_it(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert curve(records, "eval_mlm_accuracy", 100) == ([1.0], [2.0])
    assert curve(records, "loss", 1) == ([1.0, 2.0], [9.0, 7.0])


def test_the_picture_is_a_png(run, tmp_path):
    main([str(run), "--output", str(tmp_path / "out" / "curves.png"), "--reference", "unigram = guess=6.5,5.1"])
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"RUN .* must hold log\.jsonl"):
        main([str(tmp_path), "--output", str(tmp_path / "curves.png")])
