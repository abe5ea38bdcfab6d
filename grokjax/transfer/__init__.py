"""Finetuning of stored runs on new facts."""

from grokjax.transfer.run import transfer

__all__ = ["transfer"]
