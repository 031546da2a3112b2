"""Text to tokens: tokenizers, word segmenters, vocabularies."""
