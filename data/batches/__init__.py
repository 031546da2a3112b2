"""Rows of a corpus to micro-batches: packing, sampling, masks."""
