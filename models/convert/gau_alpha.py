"""junnyu/chinese_GAU-alpha-char_L-24_H-768 and its like: our names are theirs."""

from .engine import Source

GAU_ALPHA = Source(
    name="gau_alpha",
    model_type="gau_alpha",
    renames=(
        ("gau_alpha.embeddings.", "gau_alpha.embeddings."),
        ("gau_alpha.encoder.layer.{i}.gau.", "gau_alpha.encoder.layer.{i}.gau."),
        ("cls.predictions.", "cls.predictions."),
        ("classifier.", "classifier."),
        ("qa_outputs.", "qa_outputs."),
    ),
    ties=(("cls.predictions.decoder.weight", "gau_alpha.embeddings.word_embeddings.weight"),),
)
