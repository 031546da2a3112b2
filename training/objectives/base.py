"""What objectives share."""

IGNORED = -100


def separate_documents(inputs: dict) -> dict:
    """Inputs without document_ids [B, T]; attention_mask is the mask of pairs [B, T, T] bool that they stand for.

    Padding (document 0) sees padding alone, because a row of a softmax that sees nothing is not a number. Inputs
    without document_ids are returned as they are.
    """
    if "document_ids" not in inputs:
        return inputs
    documents = inputs["document_ids"]
    kept = {name: tensor for name, tensor in inputs.items() if name != "document_ids"}
    return kept | {"attention_mask": documents.unsqueeze(2) == documents.unsqueeze(1)}
