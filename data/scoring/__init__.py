"""Logits to answers, scores, prediction files and submissions; scores of texts."""
