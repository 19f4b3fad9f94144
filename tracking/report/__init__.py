"""The report: one HTML page that needs no network, and its figures as files. matplotlib draws; nothing here knows MLflow."""
