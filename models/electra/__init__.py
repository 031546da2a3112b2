"""ELECTRA: generator and discriminator under one loss."""
