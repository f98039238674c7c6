"""Trained generators in forms that others load. One module a format, each checked against Keras as it is written.

    saved_model   TensorFlow SavedModel: saved_models/NAME/VERSION, for TensorFlow Serving and sr_keras.super_resolve
    signatures    what a server can ask of it
    serving       what TensorFlow Serving needs beside the models
    litert        .tflite: float32, float16, dynamic-range int8, full int8
    onnx          .onnx, checked against TensorRT's list of operations
    tensorrt      engines for NVIDIA's GPUs, and what they are built from
    parity        the gates that all of them pass
    tissue        what gates look at, and what int8 is calibrated with
    forms         all forms of one version
    lookup        the file of each form, exported or converted
    runtimes      one form in a process of its own, by its runtime alone
    rates         how fast each is
    model_card    what a reader must know before using a model, as Markdown

TF-TRT, TensorRT inside a TensorFlow graph, is not among them: TensorFlow has been without it since 2.18.
"""
