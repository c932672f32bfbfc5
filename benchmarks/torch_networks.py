"""PyTorch's side of the speed table: the networks that no peer installs, and one training step."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, max_pool3d


class Block(nn.Module):
    """x + f(f(x)), f(x) = conv3(BN(ReLU(x)))."""

    def __init__(self, width):
        super().__init__()
        layers = [nn.ReLU(), nn.BatchNorm3d(width), nn.Conv3d(width, width, 3, padding=1)]
        again = [nn.ReLU(), nn.BatchNorm3d(width), nn.Conv3d(width, width, 3, padding=1)]
        self.seq = nn.Sequential(*layers, *again)

    def forward(self, x):
        """(B, C, D, H, W) to the same."""
        return x + self.seq(x)


class RatLesNetV2(nn.Module):
    """RatLesNetV2 of the published architecture, 837,026 parameters."""

    def __init__(self, channels=2, width=32):
        super().__init__()

        def bottleneck(before, after):
            return nn.Sequential(nn.ReLU(), nn.BatchNorm3d(before), nn.Conv3d(before, after, 1))

        self.conv1 = nn.Conv3d(1, width, 1)
        self.down = nn.ModuleList([Block(width) for _ in range(3)])
        self.up = nn.ModuleList([Block(2 * width) for _ in range(3)])
        narrow = [bottleneck(width, width)] + [bottleneck(2 * width, width) for _ in range(2)]
        self.narrow = nn.ModuleList(narrow)
        self.last = bottleneck(2 * width, channels)

    def forward(self, x):
        """(B, 1, D, H, W) to logits (B, channels, D, H, W)."""
        x, skips = self.conv1(x), []
        for block in self.down:
            skips.append(block(x))
            x = max_pool3d(skips[-1], 2, ceil_mode=True)
        for narrow, block, skip in zip(self.narrow, self.up, reversed(skips), strict=True):
            up = interpolate(narrow(x), skip.shape[2:], mode="trilinear", align_corners=False)
            x = block(torch.cat([up, skip], dim=1))
        return self.last(x)


class Residual(nn.Module):
    """ReLU(BN(conv3(ReLU(BN(conv3 x)))) + shortcut(x))."""

    def __init__(self, before, after):
        super().__init__()

        def norm(before, size):
            return [nn.Conv3d(before, after, size, padding=size // 2), nn.BatchNorm3d(after)]

        self.body = nn.Sequential(*norm(before, 3), nn.ReLU(), *norm(after, 3))
        self.shortcut = nn.Identity() if before == after else nn.Sequential(*norm(before, 1))

    def forward(self, x):
        """(B, C, D, H, W) to another number of channels."""
        return torch.relu(self.body(x) + self.shortcut(x))


class AERUNet(nn.Module):
    """AERUNet in 3D: residual blocks, spatial attention on each skip connection."""

    def __init__(self, channels=2, filters=(16, 32, 64, 128)):
        super().__init__()
        pairs = list(zip(filters[:-1], filters[1:], strict=True))
        blocks = [Residual(1, filters[0])] + [Residual(*pair) for pair in pairs]
        self.down = nn.ModuleList(blocks)
        self.gates = nn.ModuleList([nn.Conv3d(2, 1, 7, padding=3, bias=False) for _ in pairs])
        self.grow = nn.ModuleList([nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairs])
        self.up = nn.ModuleList([Residual(2 * a, a) for a, _ in pairs])
        self.last = nn.Conv3d(filters[0], channels, 1)

    def forward(self, x):
        """(B, 1, D, H, W) to logits (B, channels, D, H, W)."""
        x, skips = self.down[0](x), []
        for block in self.down[1:]:
            skips.append(x)
            x = block(max_pool3d(x, 2))
        for i in reversed(range(len(skips))):
            pooled = torch.cat([skips[i].mean(1, True), skips[i].amax(1, True)], dim=1)
            attended = skips[i] * torch.sigmoid(self.gates[i](pooled))
            x = self.up[i](torch.cat([attended, self.grow[i](x)], dim=1))
        return self.last(x)


class UNetPlusPlus(nn.Module):
    """The usual port of UNet++: X_ij = H([X_i0 … X_i,j−1, up(X_i+1,j−1)])."""

    def __init__(self, channels=1, filters=(32, 64, 128, 256, 512)):
        super().__init__()

        def node(before, after):
            layers = []
            for width in (before, after):
                layers += [nn.Conv2d(width, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            return nn.Sequential(*layers)

        self.depth = len(filters)
        self.nodes = nn.ModuleDict()
        for i, width in enumerate(filters):
            self.nodes[f"{i}_0"] = node(filters[i - 1] if i else 3, width)
            for j in range(1, self.depth - i):
                self.nodes[f"{i}_{j}"] = node(j * width + filters[i + 1], width)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.final = nn.Conv2d(filters[0], channels, 1)

    def forward(self, x):
        """(B, 3, H, W) to logits (B, channels, H, W)."""
        grid = {(0, 0): self.nodes["0_0"](x)}
        for i in range(1, self.depth):
            grid[i, 0] = self.nodes[f"{i}_0"](self.pool(grid[i - 1, 0]))
        for j in range(1, self.depth):
            for i in range(self.depth - j):
                inputs = [grid[i, k] for k in range(j)] + [self.up(grid[i + 1, j - 1])]
                grid[i, j] = self.nodes[f"{i}_{j}"](torch.cat(inputs, dim=1))
        return self.final(grid[0, self.depth - 1])


def training_step(network, image_shape, channels):
    """A function that takes one step of Adam on the cross-entropy of a fixed batch."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # what XLA does as well: kernels chosen by trial, products in TF32
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    network = network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x = torch.randn(image_shape, device=device)
    labels = torch.randint(channels, (image_shape[0], *image_shape[2:]), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU, as ours does

    network.train()
    return step
