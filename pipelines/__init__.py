"""From whole-slide images to (lr, hr) training pairs. Knows nothing of `sr_keras`.

Data moves one way: slide -> tissue -> patches -> shards -> dataset. Each step is a module of that name.
"""
import os

# A user reads our words, not TensorFlow's start-up chatter. Set before the first TensorFlow import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
