"""Train the network behind CXR Lite. Needs ``training/requirements.txt``."""

import os

# tensorflow-model-optimization prunes Keras 2 alone; both must be told before tensorflow is imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
