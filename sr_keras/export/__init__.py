"""Trained generators in forms that others load. One module a format, each checked against Keras as it is written.

    saved_model   TensorFlow SavedModel: saved_models/NAME/VERSION, for TensorFlow Serving and sr_keras.super_resolve
    litert, onnx  .tflite and .onnx, for `sr_keras.engines`
    parity        the check that all of them pass
    model_card    what a reader must know before using a model, as Markdown
"""
