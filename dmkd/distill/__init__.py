"""Every method, by name and by preset."""
