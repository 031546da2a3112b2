import json
import math
from pathlib import Path

import pytest

from plot_run import CONSTANT, curve, draw, jobs_of, main, mean_curve, parse_run, read_log


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


def test_accuracy_on_hidden_tokens_stands_beside_that_on_all(run):
    def accuracies():
        return [(line.get_label(), line.get_linestyle()) for line in draw([("mine", run)], []).axes[1].lines]

    old = accuracies()
    with open(run / "log.jsonl", "a") as file:
        file.write(json.dumps({"step": 2, "eval_mlm_accuracy": 0.2, "eval_mlm_hidden_accuracy": 0.12}) + "\n")
    new = accuracies()
    assert new == [*old, ("mine, held out, hidden tokens", ":")], "and a log without it is drawn as ever"
    assert draw([("mine", run)], []).axes[1].lines[-1].get_ydata() == [pytest.approx(12)]


def test_panels_have_titles_and_few_points_are_marked(run):
    figure = draw([("mine", run)], [], title="Quickstart")
    loss, accuracy = figure.axes
    assert figure.get_suptitle() == "Quickstart"
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "accuracy")
    assert [line.get_marker() for line in accuracy.lines] == ["o", "o"] and accuracy.get_xlim()[0] == 0
    records = [{"step": step, "loss": 1.0, "tokens_seen": 1e6 * step} for step in range(50)]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (training, held_out) = draw([("mine", run)], []).axes[0].lines
    assert training.get_marker() == "None" and not len(held_out.get_xdata()), "a line of many points has no dots"


def test_runs_of_one_name_have_one_colour_and_one_label(run):
    figure = draw([("mine", run), ("mine", run), ("other", run)], [("guess", 6.5, 5.1)])
    *lines, reference = figure.axes[1].lines
    colors = [line.get_color() for line in lines]
    assert len(set(colors[: len(lines) * 2 // 3])) == 1 and len({*colors, reference.get_color()}) == 3
    labels = [label for label in figure.axes[1].get_legend_handles_labels()[1] if "held out" in label]
    assert labels == ["mine, 2 runs, held out", "other, held out"] and figure.get_suptitle() == "Training: mine, other"


def test_the_picture_is_a_png(run, tmp_path):
    main([str(run), "--output", str(tmp_path / "out" / "curves.png"), "--reference", "unigram = guess=6.5,5.1"])
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_electra_runs_show_the_constant_guess(tmp_path):
    record = {"step": 1, "eval_share_replaced": 0.5, "eval_discriminator_loss": 0.6, "eval_discriminator_auc": 0.7}
    lines = [{"step": 1, "discriminator_loss": 0.65, "discriminator_auc": 0.6, "tokens_seen": 1e6}, record]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curve(read_log(tmp_path), CONSTANT, 1) == ([1.0], [pytest.approx(math.log(2))])
    main([str(tmp_path), "--output", str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_causal_runs_show_their_perplexity(tmp_path):
    lines = [{"step": 1, "loss": 6.0, "tokens_seen": 1e6}, {"step": 1, "eval_loss": 5.0, "eval_perplexity": 148.4}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    main([str(tmp_path), "--output", str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"RUN .* must hold log\.jsonl"):
        main([str(tmp_path), "--output", str(tmp_path / "curves.png")])


def test_finetuning_is_drawn_as_the_mean_over_seeds(tmp_path):
    for seed in (1, 2):
        folder = tmp_path / "0a1b" / f"seed{seed}"
        folder.mkdir(parents=True)
        lines = [{"step": 1, "epoch": 0.5, "loss": 0.5 + seed}]
        lines += [{"step": 2 * e, "epoch": float(e), "eval_loss": 0.6, "primary": 60.0 + 10 * seed} for e in (1, 2)]
        if seed == 2:
            lines.append({"step": 6, "epoch": 3.0, "eval_loss": 0.6, "primary": 90.0})
        (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    jobs = jobs_of(tmp_path / "0a1b")
    assert jobs == [tmp_path / "0a1b" / "seed1", tmp_path / "0a1b" / "seed2"] and jobs_of(jobs[0]) == [jobs[0]]
    logs = [read_log(job, "train_log.jsonl") for job in jobs]
    assert mean_curve(logs, "primary") == ([1.0, 2.0], [75.0, 75.0]), "only epochs that all seeds have reached"
    assert mean_curve(logs, "loss") == ([0.5], [2.0])
    runs = [f"tiny={tmp_path / '0a1b'}", str(jobs[0])]
    figure = draw([("tiny", tmp_path / "0a1b")], [("TF-IDF", math.nan, 91.75)])
    loss, score = figure.axes
    assert figure.get_suptitle() == "Finetuning: tiny" and (loss.get_title(), score.get_title()) == (
        "loss",
        "score on dev",
    )
    assert [tick for tick in score.get_xticks() if 0 <= tick <= 3] == [0, 1, 2, 3], "whole epochs"
    training = next(line for line in loss.lines if line.get_label().endswith("training"))
    assert len(training.get_xdata()) == 1 and training.get_marker() == "o", "a single point is seen"
    assert [line.get_label() for line in score.lines[-2:]] == ["tiny, mean of 2 seeds, dev", "TF-IDF"]
    main([*runs, "--output", str(tmp_path / "curves.png"), "--reference", "TF-IDF=nan,91.75"])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_may_have_a_label(tmp_path):
    assert parse_run("GAU=out/a=b") == ("GAU", Path("out/a=b"))
    (tmp_path / "lr=1").mkdir()
    assert parse_run(str(tmp_path / "lr=1")) == ("lr=1", tmp_path / "lr=1")
