# SPDX-License-Identifier: Apache-2.0
"""Trained generators in the formats that other software loads, each compared with Keras as it is written.

    format, registry         what a format is, and the list of them
    saved_model, signatures  TensorFlow SavedModel: saved_models/NAME/VERSION, and what a server can ask of it
    litert                   .tflite: float32, float16, dynamic-range int8, full int8
    onnx                     .onnx, and which of its operations TensorRT supports
    tensorrt                 engines for NVIDIA's GPUs, and the .onnx they are built from
    parity                   the comparison with Keras
    run_data                 tissue and facts from the training run
    serving, model_card      the files beside a model, for TensorFlow Serving and for readers

Files are opened by `sr_keras.model.runtimes`, without the code that converts.
"""
