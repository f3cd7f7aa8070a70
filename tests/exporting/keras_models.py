"""Recurrent models as tf2onnx writes them: python keras_models.py FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import onnx
import tensorflow as tf
import tf2onnx

T, D, H = 12, 8, 16
layers = tf.keras.layers


class Cell(layers.Layer):
    """A cell of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size = self.output_size = H

    def build(self, shape) -> None:
        self.w = self.add_weight(shape=(D, H), name="w")
        self.u = self.add_weight(shape=(H, H), name="u")

    def call(self, x, states):
        h = tf.tanh(tf.matmul(x, self.w) + tf.matmul(states[0], self.u))
        return h, [h]


def export(folder: Path, name: str, model, time: int | None = T) -> None:
    signature = (tf.TensorSpec((1, time, D), tf.float32, name="x"),)
    function = tf.function(lambda x: model(x), input_signature=signature)
    found, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=17)
    onnx.save(found, folder / f"{name}.keras.onnx")


def main(folder: Path) -> None:
    tf.keras.utils.set_random_seed(0)
    whole = {"return_sequences": True}
    models = {
        "lstm_2": [layers.LSTM(H, **whole), layers.LSTM(H)],
        "gru": [layers.GRU(H, **whole)],
        "simple_rnn": [layers.SimpleRNN(H, **whole)],
        "bidirectional": [layers.Bidirectional(layers.LSTM(H, **whole)), layers.LSTM(H, **whole)],
        "summed": [layers.Bidirectional(layers.GRU(H, **whole), merge_mode="sum"), layers.GRU(H)],
        "backwards": [layers.GRU(H, go_backwards=True, **whole)],
        "stacked_cells": [layers.RNN([layers.LSTMCell(H), layers.GRUCell(H)], **whole)],
        "unrolled": [layers.LSTM(H, unroll=True, **whole)],
        "in_time_and_space": [layers.Reshape((T, 4, 2)), layers.ConvLSTM1D(2, 3, padding="same")],
        "custom": [layers.RNN(Cell(), **whole)],
        "custom_last": [layers.RNN(Cell())],
    }
    for name, stack in models.items():
        export(folder, name, tf.keras.Sequential(stack))
    export(folder, "custom_any_length", tf.keras.Sequential([layers.RNN(Cell(), **whole)]), None)
    w, u = (tf.Variable(0.3 * tf.random.normal((size, H))) for size in (D, H))

    def while_loop(x):
        def body(time, h):
            return time + 1, tf.tanh(tf.matmul(x[:, time], w) + tf.matmul(h, u))

        return tf.while_loop(lambda time, h: time < T, body, (0, tf.zeros((1, H))))[1]

    export(folder, "while_loop", while_loop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
