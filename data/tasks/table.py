"""The tasks that run_glue.py knows, as a table, and their names.

Sizes, columns, labels and metrics are those of gluebenchmark.com, cluebenchmarks.com and UER-py's data sets; recipes
follow ELECTRA's and RoBERTa's for GLUE and the CLUE baselines' and PaddleNLP's for CLUE. Label order is that of the
data sets nyu-mll/glue and clue/clue; a label is known by its name everywhere else.
"""

from data.tasks.task import Task, TaskError

_PAIR = {"text_a": ("sentence1", "premise"), "text_b": ("sentence2", "hypothesis")}
_QUESTIONS = {
    "kind": "question_answering",
    "layout": "qa",
    "reader": "qa",
    "text_a": ("question",),
    "text_b": ("context",),
    "label": ("answers",),
    "truncation": "only_second",
    "max_length": 512,
}
_NLI = ("entailment", "neutral", "contradiction")
_CLUE_NLI = ("neutral", "entailment", "contradiction")
_TSV = {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)}
_UER = _TSV | {"test": ("test.tsv", "test_nolabel.tsv")}
_JSON = {"train": ("train.json",), "validation": ("dev.json",), "test": ("test.json",)}
_BOTH_TESTS = _JSON | {"test": ("test1.1.json", "test.json"), "test1.0": ("test1.0.json",)}
_FEWCLUE = {"train": ("train_0.json",), "validation": ("dev_0.json",), "test": ("test_public.json",)}
_TAGS = ("label", "ner_tags")
_FEW = {"train_0.json": 32, "dev_0.json": 32}


def _sizes(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


def _recipe(lr: float, batch_size: int, epochs: int, warmup_ratio: float = 0.1) -> dict[str, float]:
    return {"lr": lr, "batch_size": batch_size, "epochs": epochs, "warmup_ratio": warmup_ratio, "weight_decay": 0.01}


def _bio(types: str) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{name}" for name in types.split() for prefix in "BI"))


def _glue(
    name: str, folder: str, metrics: tuple[str, ...], groups=("glue", "glue8", "all"), numbered=False, **fields
) -> Task:
    """numbered: the local files write numbers for the labels."""
    fields = {
        "kind": "classification",
        "files": _TSV,
        "hub": ("nyu-mll/glue", name),
        "defaults": _recipe(3e-5, 32, 3),
    } | fields
    if numbered:
        fields["spellings"] = {str(index): label for index, label in enumerate(fields["labels"])}
    return Task(name=name, folders=(folder, name), metrics=metrics, groups=groups, **fields)


def _clue(name: str, groups: str, recipe: dict[str, float], **fields) -> Task:
    """groups: short for "clue", "all" and these."""
    fields = {"kind": "classification", "metrics": ("accuracy",), "files": _JSON, "hub": ("clue/clue", name)} | fields
    return Task(name=name, folders=(name,), groups=("clue", "all", *groups.split()), defaults=recipe, **fields)


def _uer(name: str, **fields) -> Task:
    fields = {
        "kind": "classification",
        "metrics": ("accuracy",),
        "text_a": ("text_a", "text"),
        "files": _UER,
        "folders": (name,),
        "defaults": _recipe(2e-5, 32, 3),
    } | fields
    return Task(name=name, groups=("zh_extra", "all"), **fields)


_TABLE = (
    _glue(
        "cola",
        "CoLA",
        ("mcc", "accuracy"),
        numbered=True,
        labels=("unacceptable", "acceptable"),
        text_a=("sentence",),
        header=("source", "label", "mark", "sentence"),
        sizes=_sizes(8551, 1043, 1063),
        constant={"mcc": 0.0, "accuracy": 69.13},
        defaults=_recipe(3e-5, 16, 10),
    ),
    _glue(
        "sst2",
        "SST-2",
        ("accuracy",),
        numbered=True,
        labels=("negative", "positive"),
        text_a=("sentence",),
        aliases=("sst",),
        sizes=_sizes(67349, 872, 1821),
        constant={"accuracy": 50.92},
    ),
    _glue(
        "mrpc",
        "MRPC",
        ("accuracy", "f1"),
        numbered=True,
        labels=("not_equivalent", "equivalent"),
        text_a=("#1 String", "sentence1"),
        text_b=("#2 String", "sentence2"),
        label=("Quality", "label"),
        files={
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "validation": ("dev.tsv", "msr_paraphrase_train.txt"),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
        dev_ids=("dev_ids.tsv", "mrpc_dev_ids.tsv"),
        sizes=_sizes(3668, 408, 1725),
        constant={"accuracy": 68.38, "f1": 81.22},
        init_from="mnli",
        defaults=_recipe(3e-5, 16, 10),
    ),
    _glue(
        "qqp",
        "QQP",
        ("accuracy", "f1"),
        numbered=True,
        labels=("not_duplicate", "duplicate"),
        text_a=("question1",),
        text_b=("question2",),
        label=("is_duplicate", "label"),
        sizes=_sizes(363846, 40430, 390965),
        constant={"accuracy": 63.18},
    ),
    _glue(
        "stsb",
        "STS-B",
        ("pearson", "spearman"),
        kind="regression",
        label=("score", "label"),
        aliases=("sts",),
        sizes=_sizes(5749, 1500, 1379),
        init_from="mnli",
        defaults=_recipe(3e-5, 16, 10),
        **_PAIR,
    ),
    _glue(
        "mnli",
        "MNLI",
        ("accuracy",),
        labels=_NLI,
        label=("gold_label", "label"),
        files={
            "train": ("train.tsv",),
            "validation_matched": ("dev_matched.tsv",),
            "validation_mismatched": ("dev_mismatched.tsv",),
            "test_matched": ("test_matched.tsv",),
            "test_mismatched": ("test_mismatched.tsv",),
        },
        eval_splits=("validation_matched", "validation_mismatched"),
        test_splits=("test_matched", "test_mismatched"),
        sizes={
            "train": 392702,
            "validation_matched": 9815,
            "validation_mismatched": 9832,
            "test_matched": 9796,
            "test_mismatched": 9847,
        },
        constant={"accuracy": 35.45},
        **_PAIR,
    ),
    _glue(
        "qnli",
        "QNLI",
        ("accuracy",),
        labels=("entailment", "not_entailment"),
        text_a=("question",),
        text_b=("sentence",),
        sizes=_sizes(104743, 5463, 5463),
        constant={"accuracy": 50.54},
    ),
    _glue(
        "rte",
        "RTE",
        ("accuracy",),
        labels=("entailment", "not_entailment"),
        sizes=_sizes(2490, 277, 3000),
        constant={"accuracy": 52.71},
        init_from="mnli",
        defaults=_recipe(3e-5, 16, 10),
        **_PAIR,
    ),
    _glue(
        "wnli",
        "WNLI",
        ("accuracy",),
        groups=("glue", "all"),
        numbered=True,
        labels=("not_entailment", "entailment"),
        sizes=_sizes(635, 71, 146),
        constant={"accuracy": 56.34},
        defaults=_recipe(3e-5, 32, 5),
        **_PAIR,
    ),
    _glue(
        "ax",
        "diagnostic",
        ("mcc",),
        groups=("glue", "all"),
        labels=_NLI,
        model_of="mnli",
        eval_splits=(),
        text_a=("sentence1", "premise", "Premise"),
        text_b=("sentence2", "hypothesis", "Hypothesis"),
        label=("Label", "label"),
        aliases=("diagnostic",),
        sizes={"test": 1104},
        files={"test": ("diagnostic.tsv", "diagnostic-full.tsv")},
    ),
    Task(
        "swag",
        "multiple_choice",
        ("accuracy",),
        layout="swag",
        reader="choices",
        groups=("all",),
        folders=("SWAG",),
        text_a=("sent1",),
        text_b=("sent2",),
        hub=("allenai/swag", "regular"),
        sizes=_sizes(73546, 20006, 20005),
        files={"train": ("train.csv",), "validation": ("val.csv", "dev.csv"), "test": ("test.csv",)},
        defaults=_recipe(5e-5, 16, 3),
    ),
    _clue(
        "afqmc",
        "clue10 clue11 clue_cls",
        _recipe(3e-5, 32, 3),
        labels=("0", "1"),
        sizes=_sizes(34334, 4316, 3861),
        constant={"accuracy": 69.0},
        **_PAIR,
    ),
    _clue(
        "tnews",
        "clue10 clue11 clue_cls",
        _recipe(3e-5, 32, 3),
        text_a=("sentence",),
        test_splits=("test", "test1.0"),
        labels=tuple(str(code) for code in range(100, 117) if code not in (105, 111)),
        files=_BOTH_TESTS,
        copies=_FEWCLUE,
        sizes=_sizes(53360, 10000, 10000) | {"test1.0": 10000, "train_0.json": 240, "dev_0.json": 240},
    ),
    _clue(
        "iflytek",
        "clue10 clue11 clue_cls",
        _recipe(3e-5, 32, 3),
        labels=tuple(map(str, range(119))),
        text_a=("sentence",),
        copies=_FEWCLUE,
        sizes=_sizes(12133, 2599, 2600),
    ),
    _clue(
        "cmnli", "clue10 clue_cls", _recipe(3e-5, 64, 2), labels=_CLUE_NLI, sizes=_sizes(391783, 12241, 13880), **_PAIR
    ),
    _clue(
        "ocnli",
        "clue10 clue11 clue_cls",
        _recipe(3e-5, 32, 5),
        labels=_CLUE_NLI,
        constant={"accuracy": 37.39},
        files=_JSON | {"train": ("train.50k.json", "train.json")},
        copies=_FEWCLUE | {"train": ("train.30k.json", "train.10k.json", "train.3k.json", "train_0.json")},
        sizes=_sizes(50437, 2950, 3000) | {"train.3k.json": 3000} | _FEW,
        **_PAIR,
    ),
    _clue(
        "cluewsc2020",
        "clue10 clue11 clue_cls",
        _recipe(2e-5, 8, 50),
        labels=("true", "false"),
        reader="wsc",
        aliases=("wsc", "cluewsc"),
        constant={"accuracy": 63.5},
        test_splits=("test", "test1.0"),
        files=_BOTH_TESTS,
        copies=_FEWCLUE,
        sizes=_sizes(1244, 304, 2574) | {"test1.0": 290} | _FEW,
    ),
    _clue(
        "csl",
        "clue10 clue11 clue_cls",
        _recipe(2e-5, 16, 5),
        labels=("0", "1"),
        reader="csl",
        max_length=256,
        truncation="only_second",
        copies=_FEWCLUE,
        constant={"accuracy": 50.0},
        sizes=_sizes(20000, 3000, 3000) | _FEW,
    ),
    _clue(
        "cmrc2018",
        "clue10 clue11",
        _recipe(3e-5, 32, 2),
        metrics=("em", "f1"),
        aliases=("cmrc",),
        files=_JSON | {"trial": ("trial.json",)},
        sizes=_sizes(10142, 3219, 2000) | {"trial": 1002},
        **_QUESTIONS,
    ),
    _clue(
        "drcd",
        "",
        _recipe(3e-5, 32, 2),
        metrics=("em", "f1", "character_f1"),
        sizes=_sizes(26936, 3524, 3493),
        **_QUESTIONS,
    ),
    _clue(
        "chid",
        "clue10 clue11",
        _recipe(2e-5, 24, 3, warmup_ratio=0.06),
        kind="multiple_choice",
        layout="chid",
        reader="chid",
        max_length=64,
        test_splits=("test", "test1.0"),
        files=_BOTH_TESTS,
        copies=_FEWCLUE,
        sizes=_sizes(84709, 3218, 3447) | {"test1.0": 3231, "train_0.json": 42, "dev_0.json": 42},
    ),
    _clue(
        "c3",
        "clue10 clue11",
        _recipe(2e-5, 24, 8),
        kind="multiple_choice",
        layout="c3",
        reader="c3",
        max_length=512,
        test_splits=("test", "test1.0"),
        files={
            "train": ("d-train.json+m-train.json",),
            "validation": ("d-dev.json+m-dev.json",),
            "test": ("test1.1.json", "test.json"),
            "test1.0": ("test1.0.json",),
        },
        sizes=_sizes(11869, 3816, 1625) | {"test1.0": 3892, "d-dev.json": 1825, "m-dev.json": 1991},
    ),
    _clue(
        "cluener",
        "",
        _recipe(3e-5, 24, 4),
        kind="tagging",
        metrics=("f1", "macro_f1"),
        labels=_bio("address book company game government movie name organization position scene"),
        layout="characters",
        reader="tags",
        text_a=("text", "tokens"),
        label=_TAGS,
        aliases=("cluener2020",),
        hub=None,
        sizes=_sizes(10748, 1343, 1345),
    ),
    _clue(
        "clue_diagnostics",
        "",
        _recipe(3e-5, 64, 2),
        labels=_CLUE_NLI,
        model_of="cmnli",
        eval_splits=(),
        aliases=("diagnostics",),
        hub=("clue/clue", "diagnostics"),
        sizes={"test": 514},
        files={"test": ("diagnostics_test.json", "test.json")},
        **_PAIR,
    ),
    _uer(
        "chnsenticorp", labels=("0", "1"), max_length=256, sizes=_sizes(9600, 1200, 1200), constant={"accuracy": 50.0}
    ),
    _uer("book_review", labels=("0", "1"), aliases=("book-review",), sizes=_sizes(20000, 8000, 8000)),
    _uer(
        "msra_ner",
        kind="tagging",
        metrics=("f1",),
        labels=_bio("LOC PER ORG"),
        layout="characters",
        reader="tags",
        text_a=("text_a", "tokens"),
        label=_TAGS,
        sizes=_sizes(45000, 2318, 4636),
        defaults=_recipe(5e-5, 16, 3),
    ),
    _uer(
        "smp2020-ewect-usual",
        labels=tuple("012345"),
        sizes=_sizes(27766, 2000, 5000),
        folders=("smp2020-ewect-usual", "smp2020-ewect/usual"),
    ),
    _uer(
        "smp2020-ewect-virus",
        labels=tuple("012345"),
        sizes=_sizes(8606, 2000, 3000),
        folders=("smp2020-ewect-virus", "smp2020-ewect/virus"),
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TABLE}
GROUPS = tuple(dict.fromkeys(group for task in _TABLE for group in task.groups))


def add_task(task: Task) -> None:
    """Let find_task and expand_tasks know one more task. TaskError when one of its names is taken."""
    taken = {plain_name(name) for known in TASKS.values() for name in (known.name, *known.aliases)}
    for name in (task.name, *task.aliases):
        if plain_name(name) in taken:
            raise TaskError(f"task {name} must have a name of its own, got that of another one; choose another")
    TASKS[task.name] = task


def find_task(name: str) -> Task:
    """Return the task of this name or alias; case, `-` and `_` make no difference. TaskError lists the names."""
    plain = {plain_name(known): task for task in TASKS.values() for known in (task.name, *task.aliases)}
    if plain_name(name) not in plain:
        raise TaskError(f"--tasks must name tasks of {', '.join(TASKS)}, got {name!r}; correct the name")
    return plain[plain_name(name)]


def plain_name(name: str) -> str:
    """What names of tasks and of their folders have in common, however they are written."""
    return name.lower().replace("-", "").replace("_", "")
