"""What a person looks at: figures, tables and pages."""

from grokjax.report.write import write_report

__all__ = ["write_report"]
