"""The interactive report: one HTML file that needs no network and nothing installed."""

from captum_kmex.report.write import write_report

__all__ = ["write_report"]
