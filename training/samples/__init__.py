"""What a model says of fixed texts while it is trained: blanks that it fills, beginnings that it continues."""
