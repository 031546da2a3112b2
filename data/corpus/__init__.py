"""The corpus on disk: blocks, shards, manifest, and how they are made."""
