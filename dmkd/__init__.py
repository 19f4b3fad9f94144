"""dmkd: search for the best small embedding network for image retrieval, by knowledge distillation."""

__version__ = "0.1.0"
