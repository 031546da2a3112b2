"""What others get of a run: adapters beside the model that they are merged into, a model card, and a hub."""
