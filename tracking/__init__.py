"""Runs, leaderboard and registry on MLflow."""
