"""run_glue.py: every kind of task is learned, killed runs end alike, labels go by name, errors name the flag."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    RoFormerConfig,
)

import models
import run_glue
from common.errors import ArgumentError
from data.tasks.task import TaskError
from tests.processes import run_together
from tests.runs import killed_in
from training.pretrained import load_tokenizer

ROOT = Path(__file__).parents[1]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.15}  # 1 / sqrt(hidden_size), about
BERT = SHAPE | {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
ENCODERS = {
    "gau_alpha": lambda size: models.GAUAlphaConfig(
        vocab_size=size, intermediate_size=64, attention_key_size=16, classifier_dropout=0.0, **SHAPE
    ),
    "flash": lambda size: models.FLASHConfig(
        vocab_size=size, query_key_dim=32, group_size=16, linear_divisor="valid", **SHAPE
    ),
    "bert": lambda size: BertConfig(vocab_size=size, **BERT),
    "roberta": lambda size: RobertaConfig(vocab_size=size, pad_token_id=0, type_vocab_size=1, **BERT),
    "electra": lambda size: ElectraConfig(vocab_size=size, embedding_size=16, **BERT),
    "flash_quad": lambda size: models.FLASHQuadConfig(vocab_size=size, s=16, **SHAPE),
    "roformer": lambda size: RoFormerConfig(vocab_size=size, embedding_size=32, **BERT),
    "modernbert": lambda size: ModernBertConfig(vocab_size=size, pad_token_id=0, global_attn_every_n_layers=2, **BERT),
}
HAN = "他在研究生命起源这位也参与其中北京大学和清华的长江桥天安门我爱你好吗今天气很不错卡拉恤用了手机云计算"


@pytest.fixture(scope="session")
def encoder(bert_folder, tmp_path_factory):
    """(family) -> folder of a tiny encoder with random weights and its tokenizer."""
    tokenizer, folders = load_tokenizer(str(bert_folder()), "--tokenizer"), {}

    def make(family):
        if family not in folders:
            torch.manual_seed(0)
            folders[family] = tmp_path_factory.mktemp(family)
            AutoModel.from_config(ENCODERS[family](len(tokenizer))).save_pretrained(folders[family])
            tokenizer.save_pretrained(folders[family])
        return folders[family]

    return make


def text(number, length=9):
    return "".join(HAN[(number * 7 + place * (place + number)) % len(HAN)] for place in range(length))


def rows(kind, count=32):
    """Rows whose target shows in the text."""
    for number in range(count):
        words, good = text(number), number % 2
        if kind == "classification":
            yield {"sentence": words + "！？"[good], "label": ["no", "yes"][good]}
        elif kind == "regression":
            yield {"sentence": words[: 4 + number % 5] + "！" * (number % 5), "label": float(number % 5)}
        elif kind == "multiple_choice":
            choices = [text(number + place, 3) + "，" for place in range(2 + number % 3)]
            choices[number % len(choices)] = text(number, 2) + "！"
            yield {"context": words, "choices": choices, "label": number % len(choices)}
        elif kind == "question_answering":
            start = number % 6
            context = words[:start] + "1234"[: 1 + number % 3] + words[start:]
            answer = {"text": ["1234"[: 1 + number % 3]], "answer_start": [start]}
            yield {"id": str(number), "question": "几", "context": context, "answers": answer}
        else:
            tags = ["B-N" if char in "北天研" else "O" for char in words]
            yield {"chars": list(words), "tags": tags}


@pytest.fixture
def data(tmp_path):
    """(kind, count) -> file of rows."""

    def write(kind, count=32):
        file = tmp_path / f"{kind}-{count}.jsonl"
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(kind, count))
        file.write_text("".join(lines), encoding="utf-8")
        return file

    return write


def command(*words, **flags):
    for name, value in flags.items():
        words += (f"--{name}", *(() if value is True else (str(value),)))
    return [str(word) for word in words]


@pytest.fixture
def classify(encoder, data, tmp_path):
    """(**flags) -> result of a short run on 32 rows for training and evaluation."""

    def run(output="out", family="bert", **flags):
        file = data("classification")
        plain = {"kind": "classification", "train_file": file, "validation_file": file, "model": encoder(family)}
        plain |= {"output_dir": tmp_path / output, "lr": 3e-3, "epochs": 4, "batch_size": 8, "device": "cpu"}
        (result,) = run_glue.main(command(**plain | flags))
        return result

    return run


def folder_of(out):
    (result,) = out.glob("*/*/seed*/result.json")
    return result.parent


def numbers(result):
    """All of a result that time and place do not change."""
    changing = {
        "seconds",
        "samples_per_second",
        "peak_memory",
        "command",
        "commit",
        "finished",
        "settings",
        "arguments",
    }
    return {name: value for name, value in result.items() if name not in changing | {"config"}}


# Learning


@pytest.mark.parametrize("family", ["gau_alpha", "flash", "bert"])
@pytest.mark.parametrize("kind", ["classification", "regression", "multiple_choice", "question_answering", "tagging"])
def test_32_rows_of_each_kind_are_overfitted(encoder, data, tmp_path, kind, family, epochs=25):
    flags = {"kind": kind, "train_file": data(kind), "model": encoder(family), "output_dir": tmp_path / "out"}
    flags |= {"overfit": 32, "lr": 4e-3, "epochs": epochs, "batch_size": 16, "dropout": 0, "eval_steps": 50}
    (result,) = run_glue.main(command(**flags, device="cpu", max_length=32, weight_decay=0))
    assert result["metrics"][result["primary"]] > (97 if kind == "regression" else 99), result["metrics"]


@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
def test_every_optimizer_trains_every_head(classify, optimizer):
    flags = {"muon_lr": 2e-2, "pooling": "mean", "dtype": "bf16"} if optimizer == "muon" else {}
    result = classify(optimizer=optimizer, family="gau_alpha", epochs=8, batch_size=16, **flags)
    assert result["metrics"]["loss"] < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("family", ["flash_quad", "roberta", "electra", "roformer", "modernbert"])
@pytest.mark.parametrize("kind", ["classification", "regression", "multiple_choice", "question_answering", "tagging"])
def test_every_other_encoder_learns_every_kind(encoder, data, tmp_path, kind, family):
    test_32_rows_of_each_kind_are_overfitted(encoder, data, tmp_path, kind, family, epochs=60)


@pytest.mark.slow
def test_two_processes_train_and_predict_as_one(encoder, data, tmp_path):
    """29 rows and batches of 4: without the rows that a sampler would repeat to make the shares equal."""
    file = data("classification", 29)
    flags = {"kind": "classification", "train_file": file, "validation_file": file, "test_file": file}
    flags |= {"model": encoder("gau_alpha"), "do_predict": True, "dropout": 0, "epochs": 3, "lr": 1e-3}
    flags |= {"eval_batch_size": 4, "device": "cpu", "fgm_eps": 0.5, "rdrop": 1.0}
    (one,) = run_glue.main(command(**flags, batch_size=8, output_dir=tmp_path / "one"))
    run_together(ROOT / "run_glue.py", command(**flags, batch_size=4, output_dir=tmp_path / "two"), tmp_path)
    folders = [folder_of(tmp_path / name) for name in ("one", "two")]
    two = json.loads((folders[1] / "result.json").read_text())
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-4) and two["test"] == pytest.approx(
        one["test"], abs=1e-4
    )
    for name in ("eval_preds.jsonl", "test_preds.jsonl"):
        lines = [(folder / name).read_text() for folder in folders]
        assert lines[0] == lines[1] and lines[0].count("\n") == 29


def test_the_loss_is_that_of_the_whole_batch_however_it_is_split(classify):
    """With unequal counts of targets, class weights, R-Drop, FGM and layer-wise rates."""
    flags = {"dropout": 0, "rdrop": 1.0, "fgm_eps": 0.5, "lwlrd": 0.8, "label_smoothing": 0.1}
    flags |= {"class_weights": "1,2.3", "epochs": 2, "optimizer": "adamw_nobc", "schedule": "original_linear"}
    whole = classify("8x1", **flags)
    parts = classify("4x2", **flags, batch_size=4, grad_accum=2)
    assert parts["metrics"]["loss"] == pytest.approx(whole["metrics"]["loss"], abs=1e-5)
    plain = classify("plain", **flags | {"fgm_eps": 0})
    assert abs(plain["metrics"]["loss"] - whole["metrics"]["loss"]) > 1e-4


# Stopping, resuming, selecting


def test_a_killed_job_run_again_ends_with_the_same_numbers(classify, tmp_path):
    flags = {"fgm_eps": 0.5, "rdrop": 1.0, "eval_steps": 3, "save_steps": 4, "logging_steps": 2, "lr": 1e-3}
    whole = classify("whole", **flags)
    with killed_in(11):
        classify("killed", **flags)
    (checkpoint,) = tmp_path.glob("killed/*/*/seed*/checkpoint-*")
    assert checkpoint.name == "checkpoint-8" and not (checkpoint.parent / "result.json").exists()
    again = classify("killed", **flags)
    assert numbers(again) == numbers(whole)
    folders = [folder_of(tmp_path / name) for name in ("whole", "killed")]
    for name in ("eval_preds.jsonl", "eval_preds.logits.npy", "best/model.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    logs = [(folder / "train_log.jsonl").read_text().split("\n") for folder in folders]
    assert len(logs[0]) == len(logs[1])
    assert not list(folders[1].glob("checkpoint-*")) and not list(folders[1].glob("incomplete-*"))


def test_a_finished_job_is_not_run_again_unless_asked(classify, tmp_path, monkeypatch):
    first = classify(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(run_glue, "read_job", None)
        assert classify(epochs=1) == first
    assert numbers(classify(epochs=1, resume="false")) == numbers(first)
    assert len(list(tmp_path.glob("out/*/*/old-seed*"))) == 1


def scripted(monkeypatch, scores):
    """Evaluations during training give these scores, one after the other."""
    waiting = list(scores)
    real = run_glue.make_evaluator

    def make(*args):
        evaluator = real(*args)

        def evaluate(trainer):
            metrics = evaluator(trainer)
            return metrics | ({"accuracy": waiting.pop(0)} if waiting else {})

        evaluate.verdicts = evaluator.verdicts
        return evaluate if waiting else evaluator

    monkeypatch.setattr(run_glue, "make_evaluator", make)


def test_patience_ends_training_and_ties_go_to_the_earlier_step(classify, monkeypatch):
    scripted(monkeypatch, [50.0, 70.0, 70.0, 60.0])
    result = classify(eval_steps=2, patience=2)
    assert (result["best_step"], result["steps"], result["max_steps"]) == (4, 8, 16)
    assert result["last"]["accuracy"] == 60.0


def test_the_last_weights_are_kept_if_asked(classify, tmp_path, monkeypatch):
    scripted(monkeypatch, [90.0, 10.0])
    best = classify("best", eval_steps=8)
    scripted(monkeypatch, [90.0, 10.0])
    last = classify("last", eval_steps=8, select="last")
    assert best["best_step"] == last["best_step"] == 8
    assert last["metrics"]["loss"] == last["last"]["loss"] != best["metrics"]["loss"]
    classify("none", epochs=1, no_keep_model=True)
    assert not (folder_of(tmp_path / "none") / "best").exists()


# Labels by name


@pytest.fixture
def trained(classify, tmp_path):
    """Folder of a finetuned model, and its result."""
    result = classify("trained", epochs=2)
    return folder_of(tmp_path / "trained") / "best", result


def permuted(folder, to, names):
    """The model with its outputs in the order of names."""
    model = BertForSequenceClassification.from_pretrained(folder)
    order = [model.config.label2id[name] for name in names]
    with torch.no_grad():
        for tensor in (model.classifier.weight, model.classifier.bias):
            tensor.copy_(tensor[order].clone())
    model.config.id2label = {number: name.upper() for number, name in enumerate(names)}
    model.config.label2id = {name.upper(): number for number, name in enumerate(names)}
    shutil.copytree(folder, to)
    model.save_pretrained(to)
    return to


def test_labels_go_by_name(classify, trained, tmp_path):
    folder, result = trained
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}
    only = classify("eval", model=folder, do_eval=True)
    assert only["metrics"] == result["metrics"] and only["steps"] == 0
    other = permuted(folder, tmp_path / "permuted", ["yes", "no"])
    again = classify("permuted_eval", model=other, do_eval=True)
    assert again["metrics"] == pytest.approx(result["metrics"])
    lines = [(folder_of(tmp_path / name) / "eval_preds.jsonl").read_text() for name in ("eval", "permuted_eval")]
    assert lines[0] == lines[1]
    config = json.loads((other / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "LABEL_0", "1": "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArgumentError, match=r"got LABEL_0 to LABEL_1.*--label_order no,yes"):
        classify("nameless", model=other, do_eval=True)
    named = classify("named", model=other, do_eval=True, label_order="yes,no")
    assert named["metrics"] == pytest.approx(result["metrics"])


# Predicting


@pytest.fixture
def finetuned(encoder, tmp_path):
    """(kind, labels) -> folder of a tiny BERT with a head of that kind, as another script would leave it."""

    def make(kind, labels=()):
        folder = tmp_path / f"finetuned-{kind}"
        config = BertConfig.from_pretrained(encoder("bert"))
        models.task_heads.new_task_model(config, kind, labels).save_pretrained(folder)
        load_tokenizer(str(encoder("bert")), "--model").save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    "kind, labels",
    [
        ("classification", ("bad", "good", "fair")),
        ("classification", ("LABEL_0", "LABEL_1")),
        ("regression", ()),
        ("multiple_choice", ()),
        ("question_answering", ()),
        ("tagging", ("O", "B-N", "I-N")),
    ],
)
def test_a_finetuned_model_predicts_rows_without_labels(finetuned, tmp_path, capsys, kind, labels):
    file = tmp_path / "unlabelled.jsonl"
    unlabelled = [{k: v for k, v in row.items() if k not in ("label", "tags", "answers")} for row in rows(kind, 3)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in unlabelled), encoding="utf-8")
    flags = {"kind": kind, "model": finetuned(kind, labels), "test_file": file, "do_predict": True, "device": "cpu"}
    (result,) = run_glue.main(command(**flags, output_dir=tmp_path / "out"))
    path = folder_of(tmp_path / "out") / result["predictions"]["test"]
    assert str(path) in capsys.readouterr().out and result["steps"] == 0 and not result["metrics"]
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    predictions = [line["prediction"] for line in lines]
    assert len(predictions) == 3 and not any("label" in line for line in lines)
    if labels:
        assert {name for one in predictions for name in (one if kind == "tagging" else [one])} <= set(labels)
    expected = {"regression": float, "multiple_choice": int, "tagging": list}.get(kind, str)
    assert all(isinstance(one, expected) for one in predictions)
    text = {"multiple_choice": "context", "question_answering": "question", "tagging": "chars"}.get(kind, "sentence")
    assert result["columns"]["texts"][0] == text and result["columns"]["label"] is None


def test_a_finetuned_model_is_trained_only_when_asked(finetuned, encoder, tmp_path):
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    for name in ("train", "dev", "test"):
        lines = (f"{text(number)}\t{number % 2}\n" for number in range(8))
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines), encoding="utf-8")
    flags = {"task_name": "sst2", "data_dir": folder.parent, "device": "cpu", "epochs": 1}
    flags |= {"model": finetuned("classification", ("negative", "positive"))}
    for name, more, steps in (
        ("predict", {"do_predict": True}, 0),
        ("evaluate", {"do_eval": True}, 0),
        ("train", {"do_predict": True, "do_train": True}, 1),
        ("bare", {"do_predict": True, "model": encoder("bert")}, 1),
    ):
        (result,) = run_glue.main(command(**flags | more, output_dir=tmp_path / name))
        assert result["steps"] == steps, name
        assert ("test" in result["predictions"]) == ("do_predict" in more)
    with pytest.raises(ArgumentError, match=r"must have the labels negative, positive, got a, b; .* add --do_train"):
        wrong = {"model": finetuned("classification", ("a", "b")), "output_dir": tmp_path / "wrong"}
        run_glue.main(command(**flags | wrong, do_predict=True))
    own = {"kind": "classification", "test_file": folder / "test.tsv", "model": encoder("bert"), "device": "cpu"}
    with pytest.raises(
        ArgumentError, match=r"--model_name_or_path .* must have a head for a task of classification .*to predict only"
    ):
        run_glue.main(command(**own, do_predict=True, output_dir=tmp_path / "headless"))


# Starting from another task


def glue_rows(folder, count=16):
    """MNLI, RTE and STS-B as gluebenchmark.com lays them out, with invented rows."""
    names = ["entailment", "neutral", "contradiction"]
    head = ["index", "sentence1", "sentence2"]
    tables = {
        "MNLI/train": [*head, "gold_label"],
        "MNLI/dev_matched": [*head, "gold_label"],
        "MNLI/dev_mismatched": [*head, "gold_label"],
        "RTE/train": [*head, "label"],
        "RTE/dev": [*head, "label"],
        "STS-B/train": [*head, "score"],
        "STS-B/dev": [*head, "score"],
    }
    for name, columns in tables.items():
        file = folder / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [columns]
        for number in range(count):
            label = {"MNLI": names[number % 3], "RTE": ["entailment", "not_entailment"][number % 2]}.get(
                name.split("/")[0], f"{number % 6 * 0.9:.3f}"
            )
            lines.append([str(number), text(number), text(number + 3), label])
        file.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_mnli_is_a_start_for_other_tasks(encoder, tmp_path):
    data = glue_rows(tmp_path / "glue")
    flags = command(model=encoder("bert"), data_dir=data, output_dir=tmp_path / "out", lr=1e-3, epochs=1, device="cpu")
    (mnli,) = run_glue.main([*flags, "--tasks", "mnli"])
    assert {"accuracy", "accuracy_matched", "accuracy_mismatched"} <= mnli["metrics"].keys()
    jobs = run_glue.list_jobs(
        *run_glue.parse_arguments(
            [run_glue.JobArguments, run_glue.SweepArguments],
            [*flags, "--tasks", "mnli,rte,stsb", "--init_from_task", "auto"],
        )
    )
    assert [job.task for job in jobs] == ["mnli", "rte", "stsb"] and jobs[0].folder == folder_of(tmp_path / "out")
    before = load_file(jobs[0].folder / "best" / "model.safetensors")
    for job in jobs[1:]:
        job.write()
        data, best = run_glue.read_job(job, True), str(jobs[0].folder / "best")
        model = run_glue.make_task_model(data.task, data.settings, best, data.plan, run_glue.task_heads).model
        state, config = model.state_dict(), model.config
        assert all(torch.equal(state[name], value) for name, value in before.items() if name.startswith("bert."))
        assert not torch.equal(state["classifier.weight"][:1], before["classifier.weight"][:1])
        kind = {"rte": "single_label_classification", "stsb": "regression"}[job.task]
        assert (config.problem_type, config.num_labels) == (kind, {"rte": 2, "stsb": 1}[job.task])
        result = run_glue.run_job(job.folder, True)
        assert result["init_from"] == str(jobs[0].folder) and result["primary"] in result["metrics"]


# Command lines


def test_the_command_line_of_old_works_with_local_data(encoder, tmp_path):
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    for name, count in (("train", 40), ("dev", 12)):
        lines = [f"{text(number)}{'！？'[number % 2]} \t{number % 2}\n" for number in range(count)]
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines), encoding="utf-8")
    roberta = encoder("roberta")
    argv = f"""--model_type roberta --model_name_or_path {roberta} --tokenizer_name_or_path {roberta} --task_name SST-2
        --max_seq_length 32 --batch_size 8 --learning_rate 3e-3 --num_train_epochs 3 --logging_steps 1 --save_steps 6
        --output_dir {tmp_path}/out/SST-2/ --device gpu --data_dir {tmp_path}/glue"""
    (result,) = run_glue.main(argv.split())
    assert (result["task"], result["steps"], result["primary"]) == ("sst2", 15, "accuracy")
    log = (folder_of(tmp_path / "out" / "SST-2") / "train_log.jsonl").read_text().split("\n")[:-1]
    records = [json.loads(line) for line in log]
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 16))
    assert [record["step"] for record in records if "primary" in record] == [6, 12, 15]
    shares = {record["accuracy"] / 12.5 for record in records if "loss" in record}  # of 8 rows, in percent
    assert shares <= set(range(9)) and max(shares) > 4
    assert all(record["eval_accuracy"] == record["primary"] > 1 for record in records if "primary" in record)
    assert result["splits"]["train"]["expected"] == 67349


def test_a_command_line_of_transformers_works(encoder, data, tmp_path):
    lines = [json.loads(line) for line in data("classification", 12).read_text(encoding="utf-8").split("\n")[:-1]]
    split = datasets.Dataset.from_list(lines)
    datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(tmp_path / "set")
    argv = f"""--model_name_or_path {encoder("bert")} --dataset_name {tmp_path}/set --do_regression false --do_train
        --do_eval --do_predict --fp16 --per_device_train_batch_size 4 --per_device_eval_batch_size 2 --eval_strategy no
        --save_strategy no --load_best_model_at_end --metric_for_best_model eval_macro_f1 --label_smoothing_factor 0.1
        --max_predict_samples 3 --max_seq_length 32 --num_train_epochs 1 --overwrite_output_dir --report_to none
        --output_dir {tmp_path}/out --use_cpu"""
    (result,) = run_glue.main(argv.split())
    assert (result["primary"], result["steps"], result["best_step"]) == ("macro_f1", 3, 3)
    assert result["splits"]["test"]["records"] == 3 and result["splits"]["validation"]["records"] == 12
    assert result["columns"] == {"texts": ["sentence"], "label": "label", "not_read": []}
    run_glue.main(argv.split())
    assert len(list(tmp_path.glob("out/*/*/old-seed*"))) == 1, "run anew, and the earlier one kept"


def test_electra_is_finetuned_as_its_authors_did(encoder, data, tmp_path):
    file = data("classification")
    flags = {"kind": "classification", "train_file": file, "validation_file": file, "model": encoder("electra")}
    (result,) = run_glue.main(command(**flags, output_dir=tmp_path / "out", recipe="electra", epochs=1, batch_size=8))
    assert result["arguments"]["lwlrd"] == 0.8 and result["arguments"]["optimizer"] == "adamw_nobc"
    config = json.loads((folder_of(tmp_path / "out") / "best" / "config.json").read_text())
    assert config["architectures"] == ["LinearHeadForSequenceClassification"]
    only = {"model": folder_of(tmp_path / "out") / "best", "do_eval": True, "output_dir": tmp_path / "eval"}
    (again,) = run_glue.main(command(**flags | only, device="cpu"))
    assert again["metrics"] == pytest.approx(result["metrics"])


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"model": None}, "--model_name_or_path must be given"),
        ({"output_dir": None}, "--output_dir must be given"),
        ({"kind": None}, "--tasks must name tasks or groups"),
        ({"kind": None, "tasks": "sst3"}, "sst3"),
        ({"kind": "poetry"}, "--kind must be one of"),
        ({"train_file": "missing.csv"}, "missing.csv"),
        ({"model": "missing/model"}, "--model_name_or_path missing/model"),
        ({"arch": "roberta"}, "--model_type must be bert"),
        ({"lr": 0}, "--learning_rate must lie in"),
        ({"batch_size": 0}, "--per_device_train_batch_size must be at least 1"),
        ({"dtype": "fp8"}, "--dtype must be one of fp32, fp16, bf16, got fp8"),
        ({"schedule": "steps"}, "--schedule must be one of"),
        ({"betas": "0.9"}, "--betas must be 2 numbers"),
        ({"class_weights": "1,2,3"}, "--class_weights must be 2 numbers"),
        ({"class_weights": "1,-2"}, "--class_weights must be positive"),
        ({"label_smoothing": 1.5}, "--label_smoothing_factor must lie in"),
        ({"lwlrd": 0.8, "optimizer": "muon"}, "--layer_decay must stand without --optimizer muon"),
        ({"pooling": "sum"}, "--pooling must be one of first, mean, max"),
        ({"lwlrd_offset": 3}, "--layer_decay_offset must be one of 1, 2"),
        ({"metric_for_best": "f2"}, "--metric_for_best_model must be one of accuracy"),
        ({"max_length": 65}, "--max_seq_length must be at most the 64 positions"),
        ({"swap_augment": True}, "--swap_augment needs records of two texts"),
        ({"do_eval": True}, "--model_name_or_path .* must have a head for a task of classification under --do_eval"),
        ({"submission_dir": "sub"}, "--submission_dir needs the predictions"),
        ({"grid": "speed=1,2"}, "--grid must name flags"),
        ({"seeds": "1,1"}, "--seeds must be distinct"),
        ({"device": "tpu"}, "--device must be one of gpu, cpu"),
        ({"job": "nowhere"}, "--job nowhere must hold a job.json"),
        ({"speed": 3}, "unknown flags --speed"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_errors_are_one_line_that_names_the_flag(encoder, data, tmp_path, monkeypatch, flags, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = data("classification")
    plain = {"kind": "classification", "train_file": file, "validation_file": file, "model": encoder("bert")}
    plain |= {"output_dir": tmp_path / "out", "device": "cpu"} | flags
    with pytest.raises((ArgumentError, TaskError, ValueError), match=message) as caught:
        run_glue.main(command(**{name: value for name, value in plain.items() if value is not None}))
    assert "\n" not in str(caught.value)


def test_smoothing_has_no_meaning_for_numbers(encoder, data, tmp_path):
    for flags, message in (
        ({"label_smoothing": 0.1}, "--label_smoothing_factor"),
        ({"class_weights": "1,2"}, "--class_weights"),
    ):
        argv = command(kind="regression", train_file=data("regression"), model=encoder("bert"), **flags)
        with pytest.raises(ArgumentError, match=message):
            run_glue.main([*argv, "--output_dir", str(tmp_path / "out")])
