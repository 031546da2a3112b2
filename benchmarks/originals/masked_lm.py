"""The masked-LM head of the original programs: logits and loss at all positions, in training as in evaluation."""

from torch.nn import functional as F
from transformers.modeling_outputs import MaskedLMOutput


class EveryPosition:
    """A mixin before one of our ForMaskedLM classes, whose base_class is an original's encoder."""

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, **outputs_asked_for):
        """ids [B, T] -> logits [B, T, V]; loss if labels [B, T] are there, -100 where nothing is asked."""
        outputs = self.base_model(input_ids, attention_mask, token_type_ids, **outputs_asked_for)
        logits = self.cls["predictions"](outputs.last_hidden_state)
        loss = None if labels is None else F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
