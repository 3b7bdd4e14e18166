"""Experiments that measured a design choice. Nothing that is shipped imports them."""

import training  # noqa: F401  sets Keras 2 before tensorflow is imported
