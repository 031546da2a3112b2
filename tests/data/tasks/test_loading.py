"""Local files and data sets give the same records for every task; what is found where, and what is missing."""

import json
import logging

import datasets
import pytest

from data.tasks.loading import load_task
from data.tasks.table import TASKS, find_task
from data.tasks.task import TaskError

TEXTS = ['He said "go', "a\u2028b \u0085 c", "它很好，真的。", 'x "" y', "  spaces around  ", "'tis"]
PAIRS = {  # task -> header and line of its files, header and line of its test file, columns of the hub
    "cola": ("", "gj04\t{number}\t\t{a}", "index\tsentence", "{i}\t{a}", "sentence"),
    "sst2": ("sentence\tlabel", "{a}\t{number}", "index\tsentence", "{i}\t{a}", "sentence"),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "{number}\t7{i}\t8{i}\t{a}\t{b}",
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "{i}\t7{i}\t8{i}\t{a}\t{b}",
        "sentence1 sentence2",
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "9{i}\t7\t8\t{a}\t{b}\t{number}",
        "id\tquestion1\tquestion2",
        "{i}\t{a}\t{b}",
        "question1 question2",
    ),
    "stsb": (
        "index\tgenre\tsentence1\tsentence2\tscore",
        "{i}\tnews\t{a}\t{b}\t{score}",
        "index\tgenre\tsentence1\tsentence2",
        "{i}\tnews\t{a}\t{b}",
        "sentence1 sentence2",
    ),
    "mnli": (
        "index\tsentence1\tsentence2\tlabel1\tgold_label",
        "{i}\t{a}\t{b}\tneutral\t{name}",
        "index\tsentence1\tsentence2",
        "{i}\t{a}\t{b}",
        "premise hypothesis",
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        "{i}\t{a}\t{b}\t{name}",
        "index\tquestion\tsentence",
        "{i}\t{a}\t{b}",
        "question sentence",
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        "{i}\t{a}\t{b}\t{name}",
        "index\tsentence1\tsentence2",
        "{i}\t{a}\t{b}",
        "sentence1 sentence2",
    ),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel",
        "{i}\t{a}\t{b}\t{number}",
        "index\tsentence1\tsentence2",
        "{i}\t{a}\t{b}",
        "sentence1 sentence2",
    ),
    "ax": ("", "", "index\tsentence1\tsentence2", "{i}\t{a}\t{b}", "premise hypothesis"),
    "chnsenticorp": ("label\ttext_a", "{name}\t{a}", "text_a", "{a}", "text"),
    "book_review": ("text_a\tlabel", "{a}\t{name}", "label\ttext_a", "\t{a}", "text"),
    "smp2020-ewect-usual": ("label\ttext_a", "{name}\t{a}", "label\ttext_a", "\t{a}", "text"),
    "smp2020-ewect-virus": ("label\ttext_a", "{name}\t{a}", "label\ttext_a", "\t{a}", "text"),
}
CLUE_TEXTS = {
    "afqmc": "sentence1 sentence2",
    "tnews": "sentence",
    "iflytek": "sentence",
    "cmnli": "sentence1 sentence2",
    "ocnli": "sentence1 sentence2",
    "clue_diagnostics": "premise hypothesis",
}


def label_at(task, i):
    return task.labels[i % len(task.labels)]


def local_table(task, split):
    header, line, test_header, test_line, _ = PAIRS[task.name]
    header, line = (test_header, test_line) if split in task.test_splits else (header, line)
    lines = [header] if header else []
    for i, text in enumerate(TEXTS):
        known = {"name": label_at(task, i), "number": i % len(task.labels)} if task.labels else {"score": i / 2}
        lines.append(line.format(i=i, a=text, b=f"{text}?", **known))
    return "\n".join(lines)


def hub_table(task, split, columns):
    first, *second = columns.split()
    rows, test = range(len(TEXTS)), split in task.test_splits
    table = {first: TEXTS} | {name: [f"{text}?" for text in TEXTS] for name in second} | {"idx": list(rows)}
    if task.labels:
        return table | {"label": [-1 if test else i % len(task.labels) for i in rows]}
    return table | {"label": [-1.0 if test else i / 2 for i in rows]}


def json_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def clue_rows(task, split):
    """Classification tasks of CLUE; the hub lacks the row that is dropped."""
    rows = []
    columns = (CLUE_TEXTS.get(task.name) or "").split()
    for i, text in enumerate(TEXTS):
        if task.name == "cluewsc2020":
            target = {"span1_text": "小红", "span1_index": 6, "span2_text": "她", "span2_index": 11}
            row = {"text": f"小明把书给了小红，因为她想看。{text}", "target": target}
        elif task.name == "csl":
            row = {"abst": text, "keyword": ["图像", text]}
        else:
            row = dict(zip(columns, (text, f"{text}?"), strict=False))
        row["index" if task.name == "clue_diagnostics" else "id"] = i
        rows.append(row if split in task.test_splits else row | {"label": label_at(task, i)})
    hub = []
    for i, row in enumerate(rows):
        row = {
            "sentence1" if key == "premise" else "sentence2" if key == "hypothesis" else key: row[key] for key in row
        }
        own = row.pop("id", None)
        row.pop("index", None)
        label = task.labels.index(row["label"]) if "label" in row else -1
        hub.append(row | {"label": label, "idx": i} | ({"corpus_id": own} if task.name == "csl" else {}))
    if "neutral" in task.labels and split not in task.test_splits:
        rows.append(rows[-1] | {"label": "-"})
    return json_lines(rows), {key: [row[key] for row in hub] for key in hub[0]}


def question_rows(task, split):
    contexts = [f" {text}的答案在此，答案不在彼。\n" for text in TEXTS]
    paragraphs, hub = [], {"id": [], "context": [], "question": [], "answers": []}
    for i, context in enumerate(contexts):
        start = -1 if split in task.test_splits else context.index("答案在此")
        text = "FAKE" if split in task.test_splits else "答案在此"
        answer = {"text": text, "answer_start": start}
        question = {"question": f"问{i} ", "id": f"Q_{i}", "answers": [answer]}
        paragraphs.append({"paragraphs": [{"id": str(i), "context": context, "qas": [question]}]})
        hub["id"].append(f"Q_{i}")
        hub["context"].append(context.strip())
        hub["question"].append(f"问{i}")
        hub["answers"].append({"text": [text], "answer_start": [start]})  # the hub strips contexts, not starts
    return json.dumps({"version": "v1.0", "data": paragraphs}, ensure_ascii=False, indent=1), hub


def cloze_rows(task, split):
    test = split in task.test_splits
    rows, answers, hub = [], {}, {"candidates": [], "content": [], "answers": [], "idx": []}
    for i, text in enumerate(TEXTS):
        tags = [f"#idiom{i:05}{j}#" for j in range(3)]
        content = [f"{tags[0]}，{text}也{tags[1]}。", f"一句{tags[2]}"]
        row = {"content": content, "candidates": [f"成语{k}号" for k in range(10)]}
        chosen = [(i + j) % 10 for j in range(3)]
        answers |= dict(zip(tags, chosen, strict=True))
        rows.append(row)
        for key in row:
            hub[key].append(row[key])
        told = [] if test else chosen
        hub["answers"].append({"text": [row["candidates"][k] for k in told], "candidate_id": told})
        hub["idx"].append(i)
    name = task.files[split][0]
    answer_file = {} if test else {name.replace(".json", "_answer.json"): json.dumps(answers)}
    return {name: json_lines(rows)} | answer_file, hub


def dialogue_rows(task, split):
    test = split in task.test_splits
    local, hub = {"d": [], "m": []}, {key: [] for key in ("id", "context", "question", "choice", "answer")}
    for i, text in enumerate(TEXTS):
        context, choices = [f"男：{text}", "女：好。"], ["甲", "乙", "丙", "丁"][: 2 + i % 3]
        questions = []
        for j in range(1 + i % 2):
            question = {"question": f"问{i}{j}", "choice": choices}
            question |= {"id": 500 - 10 * i + j} if test else {"answer": choices[j]}
            questions.append(question)
            row = question | {"id": question.get("id", i), "context": context, "answer": question.get("answer", "")}
            for key in hub:
                hub[key].append(row[key])
        local["d" if i < 3 else "m"].append([context, questions, f"{i}-1"])
    if test:
        return json.dumps(local["d"] + local["m"], ensure_ascii=False), hub
    names = dict(zip(local, task.files[split][0].split("+"), strict=True))
    return {names[part]: json.dumps(rows, ensure_ascii=False, indent=1) for part, rows in local.items()}, hub


def entity_rows(task, split):
    rows, hub = [], {"id": [], "tokens": [], "ner_tags": []}
    for i, text in enumerate(TEXTS):
        text = f"张三在北京大学{text}"
        label = {"name": {"张三": [[0, 1]]}, "organization": {"北京大学": [[3, 6]]}}
        rows.append({"id": i, "text": text} | ({} if split in task.test_splits else {"label": label}))
        kinds = ["B-name", "I-name", "O", "B-organization", "I-organization", "I-organization", "I-organization"]
        tags = kinds + ["O"] * (len(text) - 7)
        hub["id"].append(i)
        hub["tokens"].append(list(text))
        hub["ner_tags"].append([-1] if split in task.test_splits else [task.labels.index(tag) for tag in tags])
    if split in task.test_splits:
        del hub["ner_tags"]
    return json_lines(rows), hub


def tag_rows(task, split):
    texts = ["张 三 来 了 \u3000 ！", "１ ９ 😀 a"]
    tags = ["B-PER I-PER O O O O", "O O O O"]
    test = split in task.test_splits
    lines = [text if test else f"{text}\t{tag}" for text, tag in zip(texts, tags, strict=True)]
    hub = {"tokens": [text.split(" ") for text in texts], "tags": [tag.split() for tag in tags]}
    if test:
        del hub["tags"]
    hub = {"label" if key == "tags" else key: value for key, value in hub.items()}
    return "\n".join(["text_a" if test else "text_a\tlabel", *lines]), hub


def swag_rows(task, split):
    test = split in task.test_splits
    lines, hub = [",video-id,sent1,sent2,ending0,ending1,ending2,ending3" + ("" if test else ",label")], []
    for i, text in enumerate(TEXTS):
        fields = [text, "then", *(f"{text}, {k}" for k in range(4))]
        quoted = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
        lines.append(f"{i},v{i},{quoted}" + ("" if test else f",{i % 4}"))
        names = ("sent1", "sent2", "ending0", "ending1", "ending2", "ending3")
        hub.append(dict(zip(names, fields, strict=True)) | {"label": -1 if test else i % 4})
    return "\n".join(lines), {key: [row[key] for row in hub] for key in hub[0]}


def invent(task, split):
    """(text of the split's local file, or of several by name; columns of its table)."""
    if task.name in PAIRS:
        return local_table(task, split), hub_table(task, split, PAIRS[task.name][4])
    special = {
        "swag": swag_rows,
        "cmrc2018": question_rows,
        "drcd": question_rows,
        "chid": cloze_rows,
        "c3": dialogue_rows,
        "cluener": entity_rows,
        "msra_ner": tag_rows,
    }
    return special.get(task.name, clue_rows)(task, split)


def write_local(task, folder):
    folder.mkdir(parents=True)
    for split, (name, *_) in task.files.items():
        local, _ = invent(task, split)
        for file, text in ({name: local} if isinstance(local, str) else local).items():
            (folder / file).write_text(text + "\n", encoding="utf-8", newline="")


def tables_of(task):
    """The task as a data set of the hub: numbers for labels, with their names."""
    names = datasets.ClassLabel(names=list("0123") if task.name == "swag" else list(task.labels))
    tables = {}
    for split in task.files:
        columns = invent(task, split)[1]
        features = datasets.Dataset.from_dict(columns).features
        if "ner_tags" in features:
            features["ner_tags"] = datasets.List(names)
        elif "label" in features and names.names and task.kind != "tagging":
            features["label"] = names
        tables[split] = datasets.Dataset.from_dict(columns, features=features)
    return datasets.DatasetDict(tables)


def records_of(splits):
    return {name: split.records for name, split in splits.items()}


@pytest.mark.parametrize("name", TASKS)
def test_local_files_and_data_sets_give_the_same_records(name, tmp_path, monkeypatch):
    task = TASKS[name]
    folder = tmp_path / task.folders[0]
    write_local(task, folder)
    splits = load_task(task, tmp_path)
    tables = tables_of(task)
    if task.hub:
        monkeypatch.setattr(datasets, "load_dataset", lambda *name: tables if name == task.hub else None)
        assert records_of(load_task(task, None, "hub")) == records_of(splits)
    else:
        tables.save_to_disk(str(tmp_path / "saved" / task.name))
        assert records_of(load_task(task, tmp_path / "saved", "local")) == records_of(splits)
    assert list(splits) == list(tables)
    for split, read in splits.items():
        assert len(read.records) >= 2 and read.labelled == (split not in task.test_splits), split
        label = read.records[0].get("label", read.records[0].get("tags", read.records[0].get("answers")))
        assert (label in (None, [])) == (split in task.test_splits)


@pytest.mark.parametrize("name", TASKS)
def test_a_byte_order_mark_crlf_and_a_missing_last_newline_change_nothing(name, tmp_path):
    task = TASKS[name]
    write_local(task, tmp_path / "plain" / task.name)
    write_local(task, tmp_path / "other" / task.name)
    for path in (tmp_path / "other" / task.name).iterdir():
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
        path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert records_of(load_task(task, tmp_path / "other")) == records_of(load_task(task, tmp_path / "plain"))


@pytest.mark.parametrize("name", [name for name in (*PAIRS, "msra_ner", "swag") if name != "ax"])
def test_short_lines_are_left_out_of_every_table_and_counted(name, tmp_path):
    task = TASKS[name]
    write_local(task, tmp_path / name)
    before = load_task(task, tmp_path)["train"]
    (path,) = (tmp_path / name / file for file in before.parts)
    path.write_text(path.read_text("utf-8") + "1\n", "utf-8")
    after = load_task(task, tmp_path)["train"]
    assert after.records == before.records and after.skipped == {"missing field": 1}


def test_saved_folders_parquet_files_and_a_local_copy_of_the_hub_are_read_alike(tmp_path, monkeypatch):
    task = TASKS["rte"]
    tables = tables_of(task)
    write_local(task, tmp_path / "local" / "RTE")
    expected = records_of(load_task(task, tmp_path / "local"))
    tables.save_to_disk(str(tmp_path / "saved" / "rte"))
    assert records_of(load_task(task, tmp_path / "saved")) == expected
    copy = tmp_path / "nyu-mll" / "glue"
    for split, table in tables.items():
        (copy / "rte").mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(copy / "rte" / f"{split}-00000-of-00001.parquet"))
    assert records_of(load_task(task, copy, "local")) == expected
    files = [{"split": split, "path": f"rte/{split}-*"} for split in tables]
    (copy / "README.md").write_text(
        f"---\nconfigs:\n- {json.dumps({'config_name': 'rte', 'data_files': files})}\n---\n"
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert records_of(load_task(task, None, "hub")) == expected


def test_a_folder_is_found_by_any_of_its_names_and_below_the_folder_of_its_board(tmp_path):
    task = find_task("sst2")
    for place in ("SST-2", "sst2", "sst", "glue/SST_2"):
        write_local(task, tmp_path / place.replace("/", "-") / place)
        assert len(load_task(task, tmp_path / place.replace("/", "-"), "local")) == 3
    assert len(load_task(task, tmp_path / "SST-2" / "SST-2", "local")) == 3  # the folder itself
    wsc = find_task("wsc")
    write_local(wsc, tmp_path / "zips" / "cluewsc2020_public")
    assert len(load_task(wsc, tmp_path / "zips", "local")) == 4


def write_mrpc(folder, ids=True):
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [f'{i % 2}\t{i}\t{i + 100}\tone " {i}\ttwo {i}' for i in range(6)]
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"msr_paraphrase_{name}.txt").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    if ids:
        (folder / "mrpc_dev_ids.tsv").write_text("1\t101\r\n4\t104")


def test_mrpc_is_assembled_of_the_raw_files_and_the_dev_ids(tmp_path):
    write_mrpc(tmp_path / "MRPC")
    splits = load_task(TASKS["mrpc"], tmp_path)
    assert [record["text_b"] for record in splits["validation"].records] == ["two 1", "two 4"]
    assert [record["id"] for record in splits["train"].records] == [0, 2, 3, 5]
    assert [record["label"] for record in splits["test"].records[:2]] == ["not_equivalent", "equivalent"]


def test_mrpc_without_dev_ids_stops_but_its_labelled_test_set_is_evaluated(tmp_path, caplog):
    write_mrpc(tmp_path / "MRPC", ids=False)
    with pytest.raises(
        TaskError, match=r"must hold dev_ids\.tsv or mrpc_dev_ids\.tsv beside .*, got neither; .*fetch"
    ):
        load_task(TASKS["mrpc"], tmp_path)
    splits = load_task(TASKS["mrpc"], tmp_path, training=False)
    assert list(splits) == ["test"] and splits["test"].labelled
    assert "only the test set is read" in caplog.text


def test_sizes_that_are_not_official_and_everything_left_out_are_logged(tmp_path, caplog):
    folder = tmp_path / "ocnli"
    folder.mkdir()
    rows = [{"sentence1": "甲", "sentence2": "乙", "label": label} for label in ("neutral", "-", "entailment")]
    (folder / "dev.json").write_text(json_lines(rows), encoding="utf-8")
    with caplog.at_level(logging.INFO):
        split = load_task(TASKS["ocnli"], tmp_path)["validation"]
    assert split.skipped == {"label -": 1} and split.expected == 2950
    assert "ocnli validation: 2 rows from" in caplog.text
    assert "ocnli validation: rows left out, label -: 1" in caplog.text
    assert "official is a size of 2950 rows, got 2;" in caplog.text


@pytest.mark.parametrize(
    ("file", "expected"),
    [("train.50k.json", 50437), ("train.3k.json", 3000), ("train.10k.json", None), ("train_0.json", 32)],
)
def test_other_editions_have_sizes_of_their_own(file, expected, tmp_path):
    (tmp_path / "ocnli").mkdir()
    row = {"sentence1": "甲", "sentence2": "乙", "label": "neutral"}
    (tmp_path / "ocnli" / file).write_text(json_lines([row]), encoding="utf-8")
    assert load_task(TASKS["ocnli"], tmp_path)["train"].expected == expected


def test_both_test_sets_of_clue_are_read(tmp_path):
    both = {"tnews": [10000, 10000], "cluewsc2020": [290, 2574], "chid": [3231, 3447], "c3": [3892, 1625]}
    for name, sizes in both.items():
        write_local(TASKS[name], tmp_path / name)
        splits = load_task(TASKS[name], tmp_path)
        assert {"test", "test1.0"} <= set(splits)
        assert [splits[split].expected for split in ("test1.0", "test")] == sizes


def test_a_file_of_the_users_serves_as_a_split_of_a_known_task(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json_lines([{"sent1": "a", "sent2": "b", "ending0": "c", "ending1": "d", "label": 1}]))
    splits = load_task(TASKS["swag"], files={"validation": path})
    assert list(splits) == ["validation"] and splits["validation"].records[0]["label"] == 1
    path.write_text(json_lines([{"premise": "a", "hypothesis": "b", "label": "neutral"}]))
    splits = load_task(TASKS["mnli"], files={"train": path, "validation": path, "test": path})
    assert list(splits) == ["train", "validation_matched", "test_matched"]


def test_missing_folders_files_and_sources_are_named(tmp_path, monkeypatch):
    with pytest.raises(TaskError, match=r"--data_dir must hold the folder RTE or rte of rte, got"):
        load_task(TASKS["rte"], tmp_path, "local")
    with pytest.raises(TaskError, match=r"--data_dir must name an existing folder, got 'nowhere'; check the path"):
        load_task(TASKS["rte"], "nowhere")
    with pytest.raises(TaskError, match=r"--data_dir must hold the folder msra_ner of msra_ner, got None"):
        load_task(TASKS["msra_ner"])
    (tmp_path / "RTE").mkdir()
    with pytest.raises(
        TaskError, match=r"must hold files of rte such as train\.tsv, dev\.tsv, test\.tsv, got none in"
    ):
        load_task(TASKS["rte"], tmp_path)
    with pytest.raises(TaskError, match=r"--source must be one of auto, local, hub, got 'web'"):
        load_task(TASKS["rte"], tmp_path, "web")
    with pytest.raises(TaskError, match=r"gone\.tsv must be a file, got none; check the path"):
        load_task(TASKS["rte"], files={"train": tmp_path / "gone.tsv"})

    def refuse(*name):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(TaskError, match=r"^--source hub must reach nyu-mll/glue rte for rte, got: no network; copy"):
        load_task(TASKS["rte"])
