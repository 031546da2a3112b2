"""Kinds of BERT tokenizers, and texts that are hard for any of them."""

from tokenizers import normalizers

HARD = ["café", "cafe\u0301", "研\u0301究", "ｆｕｌｌＷＩＤＴＨ１２", "a\x00b\x7fc", "\ufeff你\u200b好", "\u2028\x85"]
HARD += ["👍🏽👨\u200d👩", "𠀀㐀豈", "한국어", "ℌ½ﬁ", "İıŉß", "...!?", "[MASK]", "[CLS]x[SEP]", "[mask]", "[UNK][PAD]"]
HARD += ["a[MASK]b", "≠≮", "がギ", "नमस्ते", "\r\n\t", "\u0344\u0301", "x" * 101, "²³①", "\ue000", "\U0010ffff"]
HARD += ["`\u1fef\u037e\u0387", "\u3000", "T恤", "3.14%", "\ufffd\ufffd", "\u1d16e"]
VARIANTS = {
    "uncased": {},
    "cased": {"do_lower_case": False},
    "cased, accents stripped": {"do_lower_case": False, "strip_accents": True},
    "uncased, accents kept": {"strip_accents": False},
    "Chinese characters not set apart": {"tokenize_chinese_chars": False},
}


def library(backend, document):
    return backend.encode(document, add_special_tokens=False)


def no_fallback(name):
    raise AssertionError(f"{name} must be read without transformers")


def with_nfkc(backend):
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), backend.normalizer])
    return backend
