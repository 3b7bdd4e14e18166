"""From a trained run to the two .tflite files: prune, convert, quantize, validate."""

import training  # noqa: F401  sets Keras 2 before tensorflow is imported
