"""What a configuration may say, what identifies a run, and experiments of many runs."""
