"""BLEU and chrF (sacrebleu; Post 2018, arXiv 1804.08771) and ROUGE (rouge-score; Lin 2004) of generated texts.

All are means over a corpus, in percent, against one reference a text, and those of the libraries: BLEU tokenises as
sacrebleu does for the language of the references; ROUGE stems, as transformers' scripts have it. The tokens of
rouge-score are Latin letters and digits; a character of Chinese or Japanese, of which it makes nothing, is one here.
"""

import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec

from common.errors import ArgumentError, UserError, library_errors

logger = logging.getLogger(__name__)

_PACKAGES = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}
_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_SIGN = re.compile(r"[\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_PIECES = re.compile(rf"{_SIGN.pattern}|[^{_SIGN.pattern[1:]}+")


def check_packages(flag: str) -> None:
    """ArgumentError that names the packages which are not here."""
    missing = [name for module, name in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ArgumentError(
            f"{flag} needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}, not here; "
            f"pip install {' '.join(missing)}"
        )


def score_texts(texts: Sequence[str], references: Sequence[str], language: str | None = None) -> dict[str, float]:
    """The scores of texts against as many references.

    language: of these, en or zh; decides how BLEU tokenises. None: zh where most characters are Chinese, else Latin.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    whole = "".join(references)
    language = language or ("zh" if 2 * len(_SIGN.findall(whole)) > len(whole) else "")
    with library_errors(UserError, f"sacrebleu must tokenise the language {language}", "install what it asks for"):
        bleu, chrf = BLEU(trg_lang=language), CHRF()
    scores = {"bleu": bleu.corpus_score(texts, [references]).score}
    scores["chrf"] = chrf.corpus_score(texts, [references]).score
    logger.info("BLEU %s; chrF %s", bleu.get_signature(), chrf.get_signature())
    rouge = RougeScorer(_ROUGE, tokenizer=_Tokens())
    each = [rouge.score(reference, text) for reference, text in zip(references, texts, strict=True)]
    return scores | {name: 100 * sum(one[name].fmeasure for one in each) / len(each) for name in _ROUGE}


class _Tokens:
    """rouge-score's tokens, and East Asian characters."""

    def __init__(self):
        from rouge_score.tokenizers import DefaultTokenizer

        self._latin = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        parts = (self._latin.tokenize(piece) or _SIGN.findall(piece) for piece in _PIECES.findall(text))
        return [token for part in parts for token in part]
