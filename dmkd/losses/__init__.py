"""Base losses: pure functions, modules around them, and the configuration that names them."""
