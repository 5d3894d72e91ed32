"""Draw samples with TensorFlow only, from a folder that ``kakusan export --format tf`` wrote; no PyTorch is needed.

    kakusan export runs/photos --format tf --out photos-tf
    python tf_sample.py photos-tf --count 16 --label cat

The loop is that of onnx_sample.py beside this file.
"""

import tensorflow as tf
from onnx_sample import main


class Network:
    """A SavedModel that runs as an ONNX Runtime session does."""

    def __init__(self, folder):
        self.model = tf.saved_model.load(str(folder))

    def run(self, names, feed):
        found = self.model.signatures["serving_default"](**{name: tf.constant(value) for name, value in feed.items()})
        return [found[name].numpy() for name in names]


if __name__ == "__main__":
    main(Network)
