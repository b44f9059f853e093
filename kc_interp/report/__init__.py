"""The report: one self-contained HTML page, and `findings.json` with the same numbers, from plain data alone."""

from kc_interp.report.document import Document, TaskNote
from kc_interp.report.page import render, write_findings, write_report

__all__ = ["Document", "TaskNote", "render", "write_findings", "write_report"]
