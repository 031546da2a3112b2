"""Submissions hold the boards' file names, ids and label strings, and no truncated run gets into one."""

import json
import logging
import zipfile

import pytest

from common.shortening import SHORTENING
from data.scoring.predictions import SubmissionError, read_predictions, write_predictions
from data.scoring.submission import CLUE_FILES, GLUE_FILES, glue_files, make_submissions
from data.tasks.table import TASKS


def job(folder, task, predicted, settings=None, **fields):
    """A finished job's folder; predicted: split -> [(id, prediction)]. fields: of every record."""
    folder = folder / task
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"task": task, "settings": settings or {}}), encoding="utf-8")
    rows = [(split, *row) for split, rows in predicted.items() for row in rows]
    records = [{"id": identity, "label": None, "tags": None, "answers": []} | fields for _, identity, _ in rows]
    predictions = [prediction for *_, prediction in rows]
    write_predictions(folder / "test_preds.jsonl", TASKS[task], records, predictions, [split for split, *_ in rows])
    return folder


def texts(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def submit(tmp_path, jobs, **options):
    options = {"team": "gau", "date": "20260131"} | options
    return make_submissions(tmp_path / "submission", jobs, **options)


# --- GLUE


GLUE_NAMES = [
    "CoLA.tsv",
    "SST-2.tsv",
    "MRPC.tsv",
    "STS-B.tsv",
    "QQP.tsv",
    "MNLI-m.tsv",
    "MNLI-mm.tsv",
    "QNLI.tsv",
    "RTE.tsv",
    "WNLI.tsv",
    "AX.tsv",
]


def test_glue_zip_holds_all_eleven_files(tmp_path):
    (path,) = submit(tmp_path, {"wnli": job(tmp_path, "wnli", {"test": [(7, "entailment"), (3, "not_entailment")]})})
    assert path == tmp_path / "submission" / "glue.zip"
    files = texts(path)
    assert list(files) == GLUE_NAMES
    assert files["WNLI.tsv"] == "index\tprediction\n0\t1\n1\t0\n"


def test_glue_files_have_the_site_s_header_rows_and_labels(caplog):
    predictions = {}
    for name, split in GLUE_FILES.values():
        labels = TASKS[name].labels or (1.0, 2.0)
        if name != "qqp":  # 390,965 rows: its file is made of the constant
            rows = [{"prediction": labels[i % 2]} for i in range(TASKS[name].sizes[split])]
            predictions.setdefault(name, {})[split] = rows
    with caplog.at_level(logging.WARNING):
        files = glue_files(predictions)
    assert list(files) == GLUE_NAMES
    sizes = dict(zip(files, (1063, 1821, 1725, 1379, 390965, 9796, 9847, 5463, 3000, 146, 1104), strict=True))
    words = {"QNLI.tsv": "entailment not_entailment", "RTE.tsv": "entailment not_entailment"}
    words |= dict.fromkeys(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), "entailment neutral contradiction")
    for name, text in files.items():
        header, *rows, last = text.split("\n")
        assert header == "index\tprediction"
        assert last == ""
        assert len(rows) == sizes[name], name
        indices, values = zip(*(row.split("\t") for row in rows), strict=True)
        assert indices == tuple(map(str, range(len(rows))))
        if name != "STS-B.tsv":
            assert set(values) <= set(words.get(name, "0 1").split()), name
            assert len(set(values)) == (1 if name == "QQP.tsv" else 2), name
    assert [record.message for record in caplog.records] == [
        "QQP.tsv holds a constant: there are no predictions of qqp for test"
    ]


def test_glue_numbers_are_the_official_ones():
    predicted = {
        "cola": [{"prediction": "acceptable"}],
        "wnli": [{"prediction": "entailment"}],
        "mrpc": [{"prediction": "not_equivalent"}],
        "stsb": [{"prediction": x} for x in (-0.1, 5.37, 3.14159, -0.0)],
    }
    files = glue_files({task: {"test": lines} for task, lines in predicted.items()})
    assert files["CoLA.tsv"] == "index\tprediction\n0\t1\n"
    assert files["WNLI.tsv"] == "index\tprediction\n0\t1\n"
    assert files["MRPC.tsv"] == "index\tprediction\n0\t0\n"
    assert files["STS-B.tsv"] == "index\tprediction\n0\t0.000\n1\t5.000\n2\t3.142\n3\t0.000\n"


def test_wnli_majority_replaces_the_model_and_says_so(caplog):
    predicted = {"wnli": {"test": [{"prediction": "entailment"}] * 146}}
    with caplog.at_level(logging.WARNING):
        files = glue_files(predicted, wnli_majority=True)
    assert files["WNLI.tsv"] == "index\tprediction\n" + "".join(f"{i}\t0\n" for i in range(146))
    assert "--wnli_majority" in caplog.text


def test_a_row_count_that_differs_from_the_site_s_is_reported(caplog):
    with caplog.at_level(logging.WARNING):
        glue_files({"rte": {"test": [{"prediction": "entailment"}] * 7}})
    assert "RTE.tsv holds 7 rows, the site wants 3000" in caplog.text


# --- CLUE


@pytest.fixture
def clue_jobs(tmp_path):
    ordered = {"test": [("9", "0"), ("2", "1"), ("31", "0")]}
    nli = {"test": [(1, "neutral"), (0, "entailment")]}
    chars = list("张三在北大")
    tags = ["B-name", "I-name", "O", "B-organization", "I-organization"]
    return {
        "afqmc": job(tmp_path, "afqmc", ordered),
        "tnews": job(tmp_path, "tnews", {"test": [(0, "102")], "test1.0": [(0, "116")]}),
        "iflytek": job(tmp_path, "iflytek", {"test": [(0, "118")]}),
        "cmnli": job(tmp_path, "cmnli", nli),
        "ocnli": job(tmp_path, "ocnli", nli),
        "cluewsc2020": job(tmp_path, "cluewsc2020", {"test": [(4, "true")], "test1.0": [(1, "false")]}),
        "csl": job(tmp_path, "csl", ordered),
        "cmrc2018": job(tmp_path, "cmrc2018", {"test": [("TEST_0_QUERY_1", "光荣“公司”"), ("TEST_0_QUERY_0", "")]}),
        "drcd": job(tmp_path, "drcd", {"test": [("1-2-3", "臺北")]}),
        "chid": job(tmp_path, "chid", {"test": [("#idiom623377#", 4)], "test1.0": [("#idiom623377#", 7)]}),
        "c3": job(tmp_path, "c3", {"test": [(508, 2), (3298, 0), (7, 1)], "test1.0": [(508, 1)]}),
        "cluener": job(tmp_path, "cluener", {"test": [(0, tags)]}, chars=chars),
        "clue_diagnostics": job(tmp_path, "clue_diagnostics", nli),
    }


def test_clue_zips_hold_each_version_s_files(tmp_path, clue_jobs):
    old, new = submit(tmp_path, clue_jobs)
    assert old == tmp_path / "submission" / "clue1.0" / "submit_gau_20260131.zip"
    assert new == tmp_path / "submission" / "clue1.1" / "submit_gau_20260131.zip"
    both = {"afqmc", "iflytek", "csl", "cmrc2018", "cluener"}
    expected_old = both | {"tnews10", "cmnli", "cluewsc10", "drcd", "chid10", "c310", "diagnostics"}
    expected_new = both | {"tnews11", "ocnli_50k", "cluewsc11", "chid11", "c311"}
    assert set(texts(old)) == {f"{name}_predict.json" for name in expected_old}
    assert set(texts(new)) == {f"{name}_predict.json" for name in expected_new}
    assert set(clue_jobs) == set(CLUE_FILES)


def test_clue_labels_ids_and_order_are_those_of_the_test_files(tmp_path, clue_jobs):
    old, new = (texts(path) for path in submit(tmp_path, clue_jobs))

    def lines(text):
        assert text.endswith("\n")
        return [json.loads(line) for line in text[:-1].split("\n")]

    expected = [{"id": "9", "label": "0"}, {"id": "2", "label": "1"}, {"id": "31", "label": "0"}]
    assert lines(new["afqmc_predict.json"]) == expected
    assert new["tnews11_predict.json"] == '{"id": 0, "label": "102"}\n'
    assert old["tnews10_predict.json"] == '{"id": 0, "label": "116"}\n'
    assert lines(new["ocnli_50k_predict.json"]) == [{"id": 1, "label": "neutral"}, {"id": 0, "label": "entailment"}]
    assert lines(new["cluewsc11_predict.json"]) == [{"id": 4, "label": "true"}]
    assert lines(old["cluewsc10_predict.json"]) == [{"id": 1, "label": "false"}]
    assert lines(new["c311_predict.json"]) == [
        {"id": 508, "label": 2},
        {"id": 3298, "label": 0},
        {"id": 7, "label": 1},
    ]
    assert json.loads(new["chid11_predict.json"]) == {"#idiom623377#": 4}
    assert json.loads(old["chid10_predict.json"]) == {"#idiom623377#": 7}
    answers = {"TEST_0_QUERY_1": "光荣“公司”", "TEST_0_QUERY_0": ""}
    assert json.loads(new["cmrc2018_predict.json"]) == answers
    assert json.loads(old["drcd_predict.json"]) == {"1-2-3": "臺北"}
    label = {"name": {"张三": [[0, 1]]}, "organization": {"北大": [[3, 4]]}}
    assert lines(new["cluener_predict.json"]) == [{"id": 0, "text": "张三在北大", "label": label}]


def test_a_part_of_the_tasks_and_one_version_make_one_zip(tmp_path, clue_jobs):
    (path,) = submit(tmp_path, {"c3": clue_jobs["c3"]}, clue_version="1.0")
    assert path == tmp_path / "submission" / "submit_gau_20260131.zip"
    assert texts(path) == {"c310_predict.json": '{"id": 508, "label": 1}\n'}


def test_a_test_file_that_was_not_predicted_is_left_out_and_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        (path,) = submit(tmp_path, {"tnews": job(tmp_path, "tnews", {"test": [(0, "102")]})})
    assert path.parent.name == "clue1.1"
    assert "no predictions of tnews for test1.0" in caplog.text


def test_a_row_predicted_twice_is_refused(tmp_path):
    jobs = {"chid": job(tmp_path, "chid", {"test": [("#idiom1#", 4), ("#idiom1#", 3)]})}
    with pytest.raises(SubmissionError, match="every test id must occur once, got '#idiom1#' again"):
        submit(tmp_path, jobs)


@pytest.mark.parametrize("flag", SHORTENING)
def test_a_truncated_run_is_refused_before_anything_is_written(tmp_path, flag):
    jobs = {
        "afqmc": job(tmp_path, "afqmc", {"test": [(0, "1")]}),
        "rte": job(tmp_path, "rte", {"test": [(0, "entailment")]}, settings={flag: 8, "lr": 1e-5}),
    }
    with pytest.raises(SubmissionError, match=f"rte: .* got one with --{flag}"):
        submit(tmp_path, jobs)
    assert not (tmp_path / "submission").exists()


def test_a_team_becomes_a_file_name(tmp_path):
    with pytest.raises(SubmissionError, match=r"--team must be .*, got '../x'"):
        submit(tmp_path, {}, team="../x")


def test_jobs_without_test_predictions_and_tasks_of_no_board_make_no_file(tmp_path):
    folder = job(tmp_path, "afqmc", {})
    (folder / "test_preds.jsonl").unlink()
    other = job(tmp_path, "chnsenticorp", {"test": [(0, "1")]}, settings={"dry_run": True})
    assert submit(tmp_path, {"afqmc": folder, "chnsenticorp": other}) == []


def test_a_submission_has_the_same_bytes_again(tmp_path, clue_jobs):
    before = [path.read_bytes() for path in submit(tmp_path, clue_jobs)]
    assert [path.read_bytes() for path in submit(tmp_path, clue_jobs)] == before
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("line", ["{", "[1]", '{"split": "test"}', "\udcff", "[" * 100_000, "9" * 5000])
def test_damaged_predictions_and_results_are_named(tmp_path, line):
    for name in ("result.json", "test_preds.jsonl"):
        (tmp_path / name).write_bytes(line.encode("utf-8", "surrogateescape"))
    with pytest.raises(SubmissionError, match=r"test_preds\.jsonl:1: must be a JSON object"):
        read_predictions(tmp_path / "test_preds.jsonl")
    with pytest.raises(SubmissionError, match=r"result\.json: must be a JSON object with settings"):
        make_submissions(tmp_path, {"rte": tmp_path}, team="a", date="2026-01-01")
