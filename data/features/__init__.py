"""Records of a task to rows of tokens, and micro-batches of these."""
