"""Tokenizers whose output differs from what transformers' own class gives."""

from tokenizers import processors
from transformers import BertTokenizer


class GAUAlphaTokenizer(BertTokenizer):
    """BertTokenizer whose token types are 0 for the second text too: the model never saw type 1."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        cls, sep = str(self.cls_token), str(self.sep_token)
        self.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:0 {sep}:0",
            special_tokens=[(cls, self.cls_token_id), (sep, self.sep_token_id)],
        )
