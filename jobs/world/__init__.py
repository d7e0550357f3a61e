"""A world where the truth is exact: generated videos, questions with their evidence, a small model trained on them."""
