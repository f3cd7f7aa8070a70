"""Stacks of layers with torch's scan, over layers and over time: python layered_torch_models.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

T, H, L = 12, 16, 3
Weights = tuple[Tensor, ...]


def step(h: Tensor, x: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(x @ w + h @ u + b)
    return h, h.clone()


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.u = (nn.Parameter(0.3 * torch.randn(L, H, H)) for _ in range(2))
        self.b = nn.Parameter(0.1 * torch.randn(L, 1, H))

    def over_time(self, weights: Weights, xs: Tensor) -> Tensor:
        return scan(lambda h, x: step(h, x, *weights), torch.zeros(1, H), xs)[1]


class Plain(Stack):
    def forward(self, xs: Tensor) -> Tensor:
        for layer in range(L):
            xs = self.over_time((self.w[layer], self.u[layer], self.b[layer]), xs)
        return xs


class Inside(Stack):
    def forward(self, xs: Tensor) -> Tensor:
        weights = self.w, self.u, self.b

        def over_layers(states: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            y, states = scan(lambda x, own: step(own[3], x, *own[:3]), x, (*weights, states))
            return states, y

        return scan(over_layers, torch.zeros(L, 1, H), xs)[1]


class Around(Stack):
    def forward(self, xs: Tensor) -> Tensor:
        def layer(xs: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
            ys = self.over_time(weights, xs)
            return ys, ys[-1] + 0

        return scan(layer, xs, (self.w, self.u, self.b))[0]


def main(folder: Path) -> None:
    for model in (Plain(), Inside(), Around()):
        path = folder / f"{type(model).__name__.lower()}.onnx"
        inputs = (torch.zeros(T, 1, H),)
        torch.onnx.export(model.eval(), inputs, path, dynamo=True, verbose=False, external_data=False)


if __name__ == "__main__":
    with torch.no_grad():
        main(Path(sys.argv[1]))
