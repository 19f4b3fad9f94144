"""Ray Tune sweeps: one short script per experiment."""
