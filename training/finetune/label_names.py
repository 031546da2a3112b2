"""Labels by name: which output of a finetuned model stands for which label of a task."""

import re

from common.errors import ArgumentError

_NAMELESS = re.compile(r"label_\d+")


def label_numbers(labels: tuple[str, ...], id2label: dict[int, str], order: str | None, name: str) -> dict[str, int]:
    """Output of each of the task's labels, compared without regard to case.

    id2label: of the model's config; order: --label_order, names of the outputs in place of id2label's; name: of the
    model, as typed.

    Raises:
        ArgumentError: the model's labels are not the task's, or it has numbers for names and there is no order.
    """
    if order is not None:
        flag, found = f"--label_order {order}", [label.strip() for label in order.split(",")]
        if len(found) != len(id2label):
            raise ArgumentError(
                f"{flag} must name each of the {len(id2label)} outputs of {name}, got {len(found)} names; add the rest"
            )
    else:
        flag, found = f"--model {name}", [id2label[number] for number in range(len(id2label))]
        if all(_NAMELESS.fullmatch(label.lower()) for label in found) and set(found) != set(labels):
            raise ArgumentError(
                f"{flag} must name its labels, got {found[0]} to {found[-1]}, which say nothing; give their names in "
                f"the order of its outputs with --label_order {','.join(labels)}"
            )
    numbers = {label.lower(): number for number, label in enumerate(found)}
    if numbers.keys() != {label.lower() for label in labels} or len(numbers) < len(found):
        raise ArgumentError(
            f"{flag} must have the labels {', '.join(labels)}, got {', '.join(found)}; name a model of this task, "
            "or add --do_train to give it another head"
        )
    return {label: numbers[label.lower()] for label in labels}
