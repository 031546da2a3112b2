"""What a step minimises and counts."""
