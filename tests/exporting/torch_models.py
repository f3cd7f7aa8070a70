"""Recurrent models as torch's three exporters write them: python torch_models.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

T, D, H = 12, 8, 16


class Steps(nn.Module):
    """A cell in a Python loop."""

    def __init__(self, cell: type[nn.RNNCellBase], *, last_only: bool = False) -> None:
        super().__init__()
        self.cell, self.last_only = cell(D, H), last_only

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(x.shape[1], H)
        state = (zeros, zeros) if isinstance(self.cell, nn.LSTMCell) else zeros
        rows = []
        for time in range(x.shape[0]):
            state = self.cell(x[time], state)
            rows.append(state[0] if isinstance(state, tuple) else state)
        return rows[-1] if self.last_only else torch.stack(rows)


class TwoCells(nn.Module):
    """Two different cells in one Python loop, with a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper, self.head = nn.RNNCell(D, H), nn.GRUCell(H, H), nn.Linear(H, 4)

    def forward(self, x: Tensor, h1: Tensor, h2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = []
        for time in range(x.shape[0]):
            h1 = self.lower(x[time], h1)
            h2 = self.upper(h1, h2)
            rows.append(self.head(h2))
        return torch.stack(rows), h1, h2


class Diagonal(nn.Module):
    """A complex diagonal recurrence in real arithmetic, elementwise."""

    def __init__(self) -> None:
        super().__init__()
        self.re, self.im = nn.Parameter(0.9 * torch.rand(H)), nn.Parameter(0.3 * torch.rand(H))
        self.encoder, self.head = nn.Linear(D, 2 * H), nn.Linear(2 * H, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = b = torch.zeros(x.shape[1], H)
        rows = []
        for time in range(x.shape[0]):
            u = self.encoder(x[time])
            a, b = self.re * a - self.im * b + u[:, :H], self.im * a + self.re * b + u[:, H:]
            rows.append(self.head(torch.cat([a, b], -1)))
        return torch.stack(rows)


class Spiking(nn.Module):
    """An adaptive integrate-and-fire layer with smooth spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.r = nn.Linear(D, H), nn.Linear(H, H, bias=False)

    def forward(self, x: Tensor, z: Tensor, v: Tensor, a: Tensor) -> Tensor:
        rows = []
        for time in range(x.shape[0]):
            v = 0.9 * v + self.w(x[time]) + self.r(z) - z
            a = 0.95 * a + z
            z = torch.sigmoid(4 * (v - 1 - 0.1 * a))
            rows.append(z)
        return torch.stack(rows)


class Backwards(nn.Module):
    """A loop from the last time to the first, with a constant of its own in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(D, H)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        rows = []
        for time in reversed(range(x.shape[0])):
            h = self.cell(x[time] + 0.1 * (time + 1), h)
            rows.append(h)
        return torch.stack(rows[::-1])


class Hoisted(nn.Module):
    """A minimal GRU: gates and candidates do not read the state, so that no weight is left in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(D, H), nn.Linear(D, H)

    def forward(self, x: Tensor) -> Tensor:
        z, c = torch.sigmoid(self.gate(x)), self.candidate(x)
        h, rows = torch.zeros(x.shape[1], H), []
        for time in range(x.shape[0]):
            h = (1 - z[time]) * h + z[time] * c[time]
            rows.append(h)
        return torch.stack(rows)


class Selective(nn.Module):
    """A selective state space, batch first, with a causal convolution and a gate (Gu and Dao 2023)."""

    def __init__(self, width: int = 4, size: int = 4) -> None:
        super().__init__()
        self.width, self.size = width, size
        self.into, self.out = nn.Linear(D, 2 * width), nn.Linear(width, D)
        self.conv = nn.Conv1d(width, width, 3, groups=width, padding=2)
        self.select = nn.Linear(width, 2 * size + width)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, size + 1).repeat(width, 1)))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.into(x).chunk(2, -1)
        u = nn.functional.silu(self.conv(u.mT)[..., : x.shape[1]].mT)
        b, c, step = self.select(u).split([self.size, self.size, self.width], -1)
        step = nn.functional.softplus(step).unsqueeze(-1)
        decay = torch.exp(-step * torch.exp(self.log_a))
        drive = step * b.unsqueeze(2) * u.unsqueeze(-1)
        h, rows = torch.zeros(x.shape[0], self.width, self.size), []
        for time in range(x.shape[1]):
            h = decay[:, time] * h + drive[:, time]
            rows.append((h * c[:, time].unsqueeze(1)).sum(-1))
        return self.out(torch.stack(rows, 1) * nn.functional.silu(gate))


class Normed(nn.Module):
    """An LSTM with layer norms inside."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(D, 4 * H, bias=False), nn.Linear(H, 4 * H, bias=False)
        self.nx, self.nh, self.nc = nn.LayerNorm(4 * H), nn.LayerNorm(4 * H), nn.LayerNorm(H)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[1], H)
        rows = []
        for time in range(x.shape[0]):
            i, f, g, o = (self.nx(self.x(x[time])) + self.nh(self.h(h))).chunk(4, -1)
            c = self.nc(f.sigmoid() * c + i.sigmoid() * g.tanh())
            h = o.sigmoid() * c.tanh()
            rows.append(h)
        return torch.stack(rows)


class Images(nn.Module):
    """A convolutional LSTM, whose states are images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 + 2, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[1], 2, *x.shape[3:])
        for frame in x:
            i, f, g, o = self.conv(torch.cat([frame, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


class HardSpikes(nn.Module):
    """Two layers of adaptive neurons with true thresholds, from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ModuleList([nn.Linear(D, H), nn.Linear(H, H)])
        self.r = nn.ModuleList([nn.Linear(H, H, bias=False) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        states = [[torch.zeros(x.shape[1], H) for _ in range(3)] for _ in range(2)]
        rows = []
        for below in x:
            for layer, (z, v, a) in enumerate(states):
                v = 0.9 * v * (1 - z) + self.w[layer](below) + self.r[layer](z)
                a = 0.95 * a + z
                below = (v > 1 + 0.2 * a).float()
                states[layer] = [below, v, a]
            rows.append(below)
        return torch.stack(rows)


class Greedy(nn.Module):
    """An encoder, and a decoder that is fed the token which it has just chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, D), nn.Linear(H, 12)
        self.encoder, self.decoder = nn.GRU(D, H), nn.GRUCell(D, H)

    def forward(self, tokens: Tensor) -> Tensor:
        h, token, rows = self.encoder(self.embed(tokens))[1][0], tokens[-1], []
        for _ in range(T):
            h = self.decoder(self.embed(token), h)
            rows.append(self.head(h))
            token = rows[-1].argmax(-1)
        return torch.stack(rows)


class Attending(nn.Module):
    """A decoder that attends to the encoder at every step and is fed its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(D, H), nn.GRUCell(H + 4, H)
        self.query, self.head = nn.Linear(H, H), nn.Linear(H, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory, last = self.encoder(x)
        h, y, rows = last[0], torch.zeros(x.shape[1], 4), []
        for _ in range(T):
            weights = torch.softmax((self.query(h) * memory).sum(-1, keepdim=True), 0)
            h = self.decoder(torch.cat([(weights * memory).sum(0), y], -1), h)
            y = self.head(h)
            rows.append(y)
        return torch.stack(rows)


class Speaking(nn.Module):
    """A decoder as of Tacotron 2: prenet, attention by content and by place, and its own frame fed back."""

    def __init__(self) -> None:
        super().__init__()
        self.prenet, self.frame, self.key = nn.Linear(4, 3), nn.Linear(H + D, 4), nn.Linear(D, 5)
        self.attending, self.decoding = nn.LSTMCell(3 + D, H), nn.LSTMCell(H + D, H)
        self.query, self.energy = nn.Linear(H, 5, bias=False), nn.Linear(5, 1)
        self.place, self.of_place = nn.Conv1d(2, 2, 3, padding=1), nn.Linear(2, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        memory = x.transpose(0, 1)
        keys, zeros = self.key(memory), torch.zeros(1, H)
        lower, upper = (zeros, zeros), (zeros, zeros)
        context, weights, total, frame = memory[:, 0] * 0, zeros[:, :T], zeros[:, :T], zeros[:, :4]
        rows = []
        for _ in range(8):
            lower = self.attending(torch.cat([torch.relu(self.prenet(frame)), context], 1), lower)
            places = self.of_place(self.place(torch.stack([weights, total], 1)).transpose(1, 2))
            energies = self.energy(torch.tanh(self.query(lower[0])[:, None] + places + keys))[..., 0]
            weights = torch.softmax(energies, 1)
            total = total + weights
            context = (weights[:, None] @ memory)[:, 0]
            upper = self.decoding(torch.cat([lower[0], context], 1), upper)
            frame = self.frame(torch.cat([upper[0], context], 1))
            rows.append(frame)
        return torch.stack(rows)


class Equilibrium(nn.Module):
    """One layer with the input injected, applied eight times from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.z, self.norm = nn.Linear(D, H), nn.Linear(H, H), nn.LayerNorm(H)

    def forward(self, x: Tensor) -> Tensor:
        z, injected = torch.zeros(x.shape[0], H), self.x(x)
        for _ in range(8):
            z = torch.tanh(self.norm(self.z(z) + injected))
        return z


class Settling(nn.Module):
    """A layer applied until its state moves no more, with torch.while_loop."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.z = nn.Linear(D, H), nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        injected = self.x(x)

        def moves(z: Tensor, change: Tensor) -> Tensor:
            return change > 1e-3

        def body(z: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
            new = torch.tanh(0.5 * self.z(z) + injected)
            return new, (new - z).abs().max()

        start = (torch.zeros(1, H), torch.tensor(1.0))
        settled: Tensor = torch._higher_order_ops.while_loop(moves, body, start)[0]
        return settled


class TiedConvolutions(nn.Module):
    """A residual block with batch norms, applied five times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = x + torch.relu(self.norm(self.conv(x)))
        return x


class TiedBlocks(nn.Module):
    """One transformer block applied six times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.Linear(D, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        for _ in range(6):
            x = self.block(x)
        return x


class Siamese(nn.Module):
    """One encoder for four inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.cat([self.encoder(value) for value in (a, b, c, d)], -1)


class Scripted(nn.Module):
    """The base of loops that torch.jit.script keeps as loops."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(D, H), nn.Linear(H, H)


class IntoList(Scripted):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rows: list[Tensor] = []
        for time in range(x.size(0)):
            h = torch.tanh(self.w(x[time]) + self.u(h))
            rows.append(h)
        return torch.stack(rows), h


class IntoBuffer(Scripted):
    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        y = torch.zeros_like(x[:, :, :1]).expand(-1, -1, 16).clone()
        for time in range(x.size(0)):
            h = torch.tanh(self.w(x[time]) + self.u(h))
            y[time] = h
        return y


class While(Scripted):
    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        time = 0
        while time < x.size(0):
            h = torch.tanh(self.w(x[time]) + self.u(h))
            time += 1
        return h


class HigherOrder(nn.Module):
    """torch.scan and torch.while_loop."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.w, self.u = kind, nn.Linear(D, H), nn.Linear(H, H)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        if self.kind == "while_loop":
            xs = self.w(x)

            def goes_on(time: Tensor, state: Tensor) -> Tensor:
                return time < T

            def body(time: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
                row = torch.index_select(xs, 0, time.reshape(1)).squeeze(0)
                return time + 1, torch.tanh(self.u(state) + row)

            return torch._higher_order_ops.while_loop(goes_on, body, (torch.tensor(0), h))[1:]
        from torch._higher_order_ops.scan import scan

        def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            state = torch.tanh(self.u(state) + self.w(row))
            return state, state.clone()

        return tuple(scan(step, h, x, reverse=self.kind == "scan_reverse"))


def export(
    folder: Path, name: str, model: nn.Module, inputs: tuple[Tensor, ...], kind: str, **options: object
) -> None:
    path = folder / f"{name}.{kind}.onnx"
    if kind == "dynamo":
        torch.onnx.export(
            model.eval(), inputs, path, dynamo=True, verbose=False, external_data=False, **options
        )
        return
    names = ["x", "h", "c"][: len(inputs)]
    traced = torch.jit.script(model.eval()) if kind == "script" else model.eval()
    axes = {"x": {0: "time"}} if kind == "script" else None
    torch.onnx.export(
        traced, inputs, path, dynamo=False, opset_version=17, input_names=names, dynamic_axes=axes
    )


def main(folder: Path) -> None:
    torch.manual_seed(0)
    x, h = torch.randn(T, 1, D), torch.randn(1, H)
    fused: dict[str, nn.Module] = {
        "rnn_1": nn.RNN(D, H),
        "rnn_3": nn.RNN(D, H, 3),
        "rnn_bi": nn.RNN(D, H, 2, bidirectional=True),
        "gru_2": nn.GRU(D, H, 2),
        "lstm_bi": nn.LSTM(D, H, 2, bidirectional=True),
    }
    for name, model in fused.items():
        for kind in ("dynamo", "legacy"):
            export(folder, name, model, (x,), kind)
    export(folder, "rnn_40", nn.RNN(32, 32, 3), (torch.randn(40, 1, 32),), "dynamo")
    for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
        export(folder, f"steps_{cell.__name__}", Steps(cell), (x,), "dynamo")
        export(folder, f"last_{cell.__name__}", Steps(cell, last_only=True), (x,), "dynamo")
    export(folder, "steps_LSTMCell", Steps(nn.LSTMCell), (x,), "legacy")
    export(folder, "two_cells", TwoCells(), (x, h, h), "dynamo")
    export(folder, "diagonal", Diagonal(), (x,), "dynamo")
    export(folder, "spiking", Spiking(), (x, h, h, h), "dynamo")
    export(folder, "backwards", Backwards(), (x, h), "dynamo")
    export(folder, "hoisted", Hoisted(), (x,), "dynamo")
    export(folder, "selective", Selective(), (x.mT.reshape(1, T, D),), "dynamo")
    for kind in ("dynamo", "legacy"):
        torch.manual_seed(1)  # both get the same weights
        export(folder, "normed", Normed(), (x,), kind)
        export(folder, "hard_spikes", HardSpikes(), (x,), kind)
        export(folder, "greedy", Greedy(), (torch.randint(0, 12, (T, 1)),), kind)
        export(folder, "attending", Attending(), (x,), kind)
        export(folder, "speaking", Speaking(), (x,), kind)
        export(folder, "equilibrium", Equilibrium(), (x[0],), kind)
        export(folder, "relu", nn.RNN(D, H, 2, bias=False, nonlinearity="relu"), (x,), kind)
    export(folder, "images", Images(), (torch.randn(T, 1, 2, 3, 3),), "dynamo")
    export(folder, "settling", Settling(), (x[0],), "dynamo")
    export(folder, "tied_convolutions", TiedConvolutions(), (torch.randn(1, 2, 5, 5),), "dynamo")
    any_batch = ({1: torch.export.Dim("batch", min=1, max=64)},)
    export(folder, "any_batch", Normed(), (torch.randn(T, 3, D),), "dynamo", dynamic_shapes=any_batch)
    export(folder, "tied_blocks", TiedBlocks(), (torch.randn(1, 5, D),), "dynamo")
    export(folder, "siamese", Siamese(), tuple(torch.randn(1, D) for _ in range(4)), "dynamo")
    for name, scripted in (("list", IntoList()), ("buffer", IntoBuffer()), ("while", While())):
        export(folder, name, scripted, (x, h), "script")
    for kind in ("scan", "scan_reverse", "while_loop"):
        export(folder, kind, HigherOrder(kind), (x, h), "dynamo")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
