"""What others get of a run: adapters beside the model that they are merged into, and a model card."""
