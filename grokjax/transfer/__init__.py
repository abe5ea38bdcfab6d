"""Finetuning of stored runs on new facts."""
