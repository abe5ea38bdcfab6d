"""Numbers in, numbers out: events, survival, intervals. No models, no files."""
