"""Raw text: documents, their order, what repeats an evaluation set; prompts, pairs."""
