"""Data preparation: raw text to JSONL, tokenizer and corpus folder, and what feeds a corpus to training."""
