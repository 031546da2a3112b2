"""How an extracted answer is scored against its gold answers: CMRC 2018's rules, a bag of characters, SQuAD's rules.

Sources: cmrc2018_evaluate.py (github.com/ymcui/cmrc2018; the CLUE baselines score DRCD with it, too), DRCD
(arXiv 1806.00920: SQuAD's F1 over characters), evaluate-v1.1.py of SQuAD. The CMRC script cuts runs of
other characters with nltk's English tokenizer; here one regular expression does, which gave the same F1 for spans at
and around each of the 9,657 answers of CMRC's development set. All scores of one answer lie between 0 and 1; the best
over the gold answers counts.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from difflib import SequenceMatcher

# The script's list also holds the pair "……", which never equals one character. ‘ " ' ( ) , . are not in it.
CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_WORD_BORDERS = re.compile(r'[()\[\]{}<>"?!;@#$%&]|,(?!\d)|\.$')  # these are tokens of their own
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def cmrc_tokens(text: str) -> list[str]:
    """Lower-cased tokens without the punctuation of the list, whose neighbours join: Chinese characters and words."""
    tokens, run = [], ""
    for character in text.lower().strip():
        if character in CMRC_PUNCTUATION:
            continue
        if "\u4e00" <= character <= "\u9fa5":
            tokens += [*_words(run), character]
            run = ""
        else:
            run += character
    return tokens + _words(run)


def _words(run: str) -> list[str]:
    return _WORD_BORDERS.sub(r" \g<0> ", run.strip()).split()


def cmrc_f1(prediction: str, gold: str) -> float:
    """F1 over the longest contiguous common run of tokens (not a subsequence, not a bag)."""
    predicted, wanted = cmrc_tokens(prediction), cmrc_tokens(gold)
    common = SequenceMatcher(None, predicted, wanted, autojunk=False).find_longest_match().size
    return _f1(common, len(predicted), len(wanted))


def cmrc_exact(prediction: str, gold: str) -> float:
    """1 when the two are equal without case, outer spaces and punctuation; inner spaces count."""
    return float(_without_punctuation(prediction) == _without_punctuation(gold))


def character_f1(prediction: str, gold: str) -> float:
    """F1 over the bags of characters that are neither spaces nor punctuation of any script."""
    return _bag_f1(_characters(prediction), _characters(gold))


def squad_f1(prediction: str, gold: str) -> float:
    """F1 over the bags of English words without punctuation and articles."""
    return _bag_f1(_squad_words(prediction), _squad_words(gold))


def squad_exact(prediction: str, gold: str) -> float:
    """1 when the English words without punctuation and articles are equal."""
    return float(_squad_words(prediction) == _squad_words(gold))


def best_over_answers(
    rule: Callable[[str, str], float], predictions: Sequence[str | None], answers: Sequence[Sequence[str]]
) -> list[float]:
    """The rule's score of each question, the best over its gold answers; a missing prediction (None) scores 0."""
    return [
        0.0 if prediction is None else max((rule(prediction, gold) for gold in golds), default=0.0)
        for prediction, golds in zip(predictions, answers, strict=True)
    ]


def _without_punctuation(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in CMRC_PUNCTUATION)


def _characters(text: str) -> list[str]:
    return [c for c in text.lower() if not c.isspace() and not unicodedata.category(c).startswith("P")]


def _squad_words(text: str) -> list[str]:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def _bag_f1(predicted: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    return _f1((Counter(predicted) & Counter(wanted)).total(), len(predicted), len(wanted))


def _f1(common: int, predicted: int, wanted: int) -> float:
    return 2 * common / (predicted + wanted) if common else 0.0
