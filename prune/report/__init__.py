"""The report of a run: its schema (`schema`), its facts as text (`tables`), its pages (`render`).

Only the schema is imported here: reading reports must not wait for the drawing libraries.
"""

from prune.report.schema import Report, load_report

__all__ = ["Report", "load_report"]
