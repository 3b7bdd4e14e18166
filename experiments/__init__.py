"""What measured a choice. Nothing that is shipped imports it."""

import training  # noqa: F401  sets Keras 2 before tensorflow is imported
