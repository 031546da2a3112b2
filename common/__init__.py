"""What every script and package shares: the errors that are expected, and how a script begins and ends."""
