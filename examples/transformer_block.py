"""A GPT-2-size transformer block on the CPU with its operators swapped for compiled ones.

    python examples/transformer_block.py [--seq 1024] [--budget 6] [--out DIR]

Compiles specs/nn/{layernorm,matmul_bias_gelu,causal_attention}.op into packages, puts them into a
plain PyTorch block, checks every operator and the block against PyTorch, and times both in turns.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import opwright

WIDTH, HEADS = 768, 12
SPECS = Path(__file__).resolve().parent.parent / "specs" / "nn"
OPERATORS = ("layernorm", "matmul_bias_gelu", "causal_attention")


class Block(nn.Module):
    """Pre-norm attention and feed-forward, as in GPT-2; the three operators can be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm_feed = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        # the weight as the product reads it: inputs by outputs
        self.up_transposed = self.up.weight.detach().t().contiguous()

    def layernorm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(x)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def feed(self, x: Tensor) -> Tensor:
        return functional.gelu(self.up(x))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(self.layernorm(x, self.norm_attention))
        q, k, v = qkv.view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = self.attention(q, k, v).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + self.out(mixed)
        return x + self.down(self.feed(self.layernorm(x, self.norm_feed)))


class CompiledBlock(Block):
    """The same block and weights with packages in the three places."""

    packages: dict[str, ModuleType]

    def layernorm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        package = self.packages["layernorm"]
        return package.layernorm(rows, norm.weight, norm.bias, eps=norm.eps).y.view_as(x)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # tuned variants read dense rows; the copies are part of the time
        dense = (t.contiguous() for t in (q, k, v))
        return self.packages["causal_attention"].causal_attention(*dense)

    def feed(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        package = self.packages["matmul_bias_gelu"]
        return package.matmul_bias_gelu(rows, self.up_transposed, self.up.bias).view(
            *x.shape[:-1], 4 * WIDTH
        )


def compiled(name: str, budget: int, out: Path) -> ModuleType:
    """The package of an operator of the library, imported from the folder that was emitted."""
    spec, types = SPECS / f"{name}.op", {"T": "f32"}  # the block is f32: no need of other types
    result = opwright.compile(spec, op=None, target="cpu", types=types, budget=budget, out=out)
    sys.path.insert(0, str(result.package / "src"))
    return importlib.import_module(f"{name}_k")


def check(name: str, got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-4)
    print(f"{name:18} largest difference {(got - wanted).abs().max().item():.2e}")


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, taken in turns so that a change of the machine meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def compare(label: str, calls: dict[str, Callable[[], Any]], repeats: int) -> None:
    times = interleaved(calls, repeats)
    medians = {name: statistics.median(t) for name, t in times.items()}
    shown = "  ".join(f"{name} {1e3 * t:8.2f} ms" for name, t in medians.items())
    print(f"{label:18} {shown}  ratio {medians['PyTorch'] / medians['compiled']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seq", type=int, default=1024, help="tokens (512 to 1024 in GPT-2)")
    parser.add_argument("--budget", type=int, default=6, help="candidates tried per operator")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("build") / "transformer_block")
    args = parser.parse_args()

    packages = {name: compiled(name, args.budget, args.out) for name in OPERATORS}
    torch.manual_seed(0)
    plain = Block().eval()
    swapped = CompiledBlock().eval()
    swapped.load_state_dict(plain.state_dict())
    swapped.up_transposed = plain.up_transposed
    swapped.packages = packages
    x = torch.randn(1, args.seq, WIDTH)
    q, k, v = torch.randn(3, 1, HEADS, args.seq, WIDTH // HEADS)
    with torch.no_grad():
        norm = plain.norm_attention
        parts = {
            "layernorm": lambda block: block.layernorm(x, norm),
            "matmul_bias_gelu": lambda block: block.feed(x),
            "causal_attention": lambda block: block.attention(q, k, v),
            "block": lambda block: block(x),
        }
        for name, part in parts.items():
            check(name, part(swapped), part(plain))
        print(packages["causal_attention"].explain(q, k, v))
        print(f"medians of {args.repeats} runs in turns, {torch.get_num_threads()} threads:")
        for name, part in parts.items():
            calls = {
                "PyTorch": lambda part=part: part(plain),
                "compiled": lambda part=part: part(swapped),
            }
            compare(name, calls, args.repeats)


if __name__ == "__main__":
    main()
