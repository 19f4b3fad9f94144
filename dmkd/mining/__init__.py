"""Tuple samplers: which triplets of a batch a loss sees."""
