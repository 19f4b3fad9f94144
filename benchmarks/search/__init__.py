"""Is the search worth its code? Real learning curves, recorded once, and searchers replayed on them."""
