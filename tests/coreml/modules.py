"""PyTorch modules that the tests convert: small, and of the kinds that models are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Perceptron(nn.Sequential):
    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Linear(16, width),
            nn.ReLU(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 5),
            nn.LogSoftmax(-1),
        )


class Convolutional(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.BatchNorm2d(12),
            nn.LeakyReLU(0.1),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 4),
            nn.Softmax(-1),
        )


class Separable(nn.Module):
    """Depthwise and pointwise convolutions with a residual, as MobileNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(6, 18, 1)
        self.depth = nn.Conv2d(18, 18, 3, padding=1, groups=18)
        self.thin = nn.Conv2d(18, 6, 1)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(18, 18, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.depth(nn.functional.silu(self.wide(x))))
        return x + self.thin(y * self.squeeze(y))


class Decoder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.ConvTranspose2d(4, 6, 4, 2, 1),
            nn.InstanceNorm2d(6, affine=True),
            nn.ELU(),
            nn.Upsample(scale_factor=2.0, mode="bilinear"),
            nn.Conv2d(6, 8, 3, padding=2, dilation=2),
            nn.PReLU(8),
            nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1),
            nn.PixelShuffle(2),
            nn.Tanh(),
        )


class Audio(nn.Module):
    """Convolutions over a signal, from frames to labels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 16, stride=8),
            nn.GroupNorm(2, 8),
            nn.Softplus(),
            nn.Conv1d(8, 8, 3, padding="same", dilation=2),
            nn.Tanh(),
            nn.MaxPool1d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x.unsqueeze(1) / (x.abs().amax(-1, keepdim=True).unsqueeze(1) + 1e-3))
        return torch.log(y.pow(2).mean(1) + 1e-2).cumsum(-1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.layer = kind(6, 10, batch_first=True, **options)  # type: ignore[arg-type]
        self.head = nn.Linear(20 if self.layer.bidirectional else 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


class Encoder(nn.Module):
    """A block of a transformer over 9 embedded tokens, with a mask of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(2))
        self.feed = nn.Sequential(nn.Linear(24, 48), nn.GELU(approximate="tanh"), nn.Linear(48, 24))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        heads = self.qkv(self.norms[0](x)).reshape(-1, 9, 3, 4, 6)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mask = (tokens != 0)[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.norms[1](x))


class Everywhere(nn.Module):
    """A network of convolutions for images of any size, with shapes that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, 2, 1)
        self.up = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(torch.relu(self.down(x)))
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")
        return torch.cat([x, y], 1).flatten(2).softmax(-1)


class Pictures(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 1, 2, 2), mode="reflect").clamp(-0.8, 0.9)
