"""Other people's files: official weights and GPT-2 in, result files out, parity."""
