"""What a task is: the types that the table, the readers and their users share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import UserError

KINDS = ("classification", "multi_label", "regression", "multiple_choice", "question_answering", "tagging")


class TaskError(UserError):
    """A task or its data cannot be used as asked; one line that names the flag or begins with file:line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # which what a file holds may break


@dataclass(frozen=True)
class Task:
    """One row of the table in data/tasks/table.py.

    name, kind: of KINDS.
    labels: in the order of the hub, spelled as in the official files ("104", "entailment", "true"); of tagging the BIO
        tags; () for regression, question answering and multiple choice.
    layout: how inputs are built: "text", "swag", "c3", "chid", "qa" or "characters".
    truncation: of pairs, "longest_first" or "only_second".
    max_length: tokens of a row, special ones included.
    metrics: names in data/scoring/metrics.py, the primary one first.
    defaults: recipe, by the names of run_glue.py's flags.
    sizes: official rows by split, and by file where another file than the usual one is official, too. Rows are the
        records after the drops that the readers make, of ChID lists of passages.
    constant: what a constant prediction scores, in percent, by metric.
    init_from: the task whose model is a better start than the pretrained one.
    model_of: the task whose model predicts this one, which has no training data.
    groups, aliases: other names of the task, and of the lists of tasks that it is in.
    reader: name of the function in data/tasks/records.py that makes records of rows.
    text_a, text_b, label: what these columns are called in the sources, tried in this order.
    spellings: other spellings of labels in the sources.
    files: by split, names of files in the task's folder, tried in this order; "+" joins files that are read as one.
    copies: by split, files of other editions (FewCLUE, subsets), tried last; their sizes stand under their names.
    dev_ids: files that list the validation rows of a file that serves as training and validation data.
    header: columns of a training or validation file that has no header.
    folders: names of the task's folder below --data_dir, compared without regard to case.
    hub: repository and configuration for datasets.load_dataset.
    columns: of the user's own files, which are the texts and the label, and which are not read.
    """

    name: str
    kind: str
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    layout: str = "text"
    truncation: str = "longest_first"
    max_length: int = 128
    defaults: Mapping[str, float] = field(default_factory=dict)
    train_split: str = "train"
    eval_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    sizes: Mapping[str, int] = field(default_factory=dict)
    constant: Mapping[str, float] = field(default_factory=dict)
    init_from: str | None = None
    model_of: str | None = None
    groups: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    reader: str = "text"
    text_a: tuple[str, ...] = ("sentence1",)
    text_b: tuple[str, ...] = ()
    label: tuple[str, ...] = ("label",)
    spellings: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dev_ids: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    hub: tuple[str, str | None] | None = None
    columns: Mapping = field(default_factory=dict)
