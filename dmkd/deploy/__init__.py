"""What a pulled folder needs to run without dmkd: `embed.py` and `search.py`, copied into it. They import nothing of dmkd."""
