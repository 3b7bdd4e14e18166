"""Train the network behind CXR Lite. Needs ``training/requirements.txt``."""

import os

# tensorflow-model-optimization supports Keras 2 only. TensorFlow reads both variables on import.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
