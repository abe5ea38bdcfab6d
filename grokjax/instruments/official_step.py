"""One optimiser step of the recursive model in PyTorch, as its authors' code takes it.

Rebuilt from the published description (docs/model.md) with PyTorch's own layers, for a comparison
of speed on the same card; nothing else uses it. Parameters are float32 and cast at each use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from grokjax.model import ModelConfig


def official_step(
    model: ModelConfig, batch_size: int, loss: str, device: str
) -> Callable[[], float]:
    """A function that takes one step on random queries and gives its loss.

    Args:
      model: recursive, one pass per sequence; positions learned or none.
      batch_size: queries.
      loss: stablemax or softmax.
      device: cuda or cpu.

    Raises:
      ModuleNotFoundError: PyTorch is not installed.
    """
    import torch
    import torch.nn.functional as F

    c, dtype = model, getattr(torch, model.dtype)
    torch.manual_seed(0)

    def weight(rows: int, columns: int) -> Any:
        values = torch.randn(rows, columns, device=device) / math.sqrt(columns)
        return torch.nn.Parameter(values)

    def gated(width: int) -> tuple[Any, Any]:
        inner = c.inner_size(width)
        return weight(2 * inner, width), weight(width, inner)

    def mixer() -> tuple[Any, Any]:
        d = c.hidden_size
        return gated(c.length) if c.mixer == "mlp" else (weight(3 * d, d), weight(d, d))

    layers = [(mixer(), gated(c.hidden_size)) for _ in range(c.num_layers)]
    embed, head = weight(c.vocab_size, c.hidden_size), weight(c.vocab_size, c.hidden_size)
    q_head = torch.nn.Parameter(torch.zeros(2, c.hidden_size, device=device))
    registers = torch.nn.Parameter(torch.zeros(1, c.register_size, device=device))
    places = torch.nn.Parameter(torch.zeros(c.length, c.hidden_size, device=device))
    start = [torch.randn(c.hidden_size, device=device).to(dtype) for _ in range(2)]
    learned = [places] if c.positions == "learned" else []
    trained = [
        embed,
        head,
        q_head,
        *learned,
        *(w for both in layers for pair in both for w in pair),
    ]
    average = [w.detach().clone() for w in trained]
    adam = torch.optim.AdamW(
        trained, lr=4e-5, betas=(0.9, 0.95), weight_decay=1.0, fused=device == "cuda"
    )
    tokens = torch.randint(1, c.vocab_size, (batch_size, c.seq_len), device=device)
    empty = c.num_registers * c.hidden_size - c.register_size

    def mlp(x: Any, pair: tuple[Any, Any]) -> Any:
        gate, up = F.linear(x, pair[0].to(dtype)).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, pair[1].to(dtype))

    def attend(x: Any, pair: tuple[Any, Any]) -> Any:
        heads = F.linear(x, pair[0].to(dtype)).unflatten(-1, (3, c.num_heads, -1))
        query, key, value = (h.transpose(1, 2) for h in heads.unbind(2))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return F.linear(mixed.transpose(1, 2).flatten(2), pair[1].to(dtype))

    def norm(x: Any) -> Any:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(dtype)

    def reason(z: Any, injection: Any) -> Any:
        z = z + injection
        for positions, channels in layers:
            if c.mixer == "mlp":
                y = z.transpose(1, 2)
                z = norm(y + mlp(y, positions)).transpose(1, 2)
            else:
                z = norm(z + attend(z, positions))
            z = norm(z + mlp(z, channels))
        return z

    def cycle(z_H: Any, z_L: Any, x: Any) -> tuple[Any, Any]:
        for _ in range(c.L_cycles):
            z_L = reason(z_L, z_H + x)
        return reason(z_H, z_L), z_L

    def loss_of(z_H: Any) -> Any:
        logits = F.linear(z_H[:, c.num_registers :], head.to(dtype)).double()
        if loss == "stablemax":
            shifted = torch.where(logits >= 0, logits + 1, 1 / (1 - logits.clamp(max=0)))
            log_p = torch.log(shifted / shifted.sum(-1, keepdim=True))
        else:
            log_p = logits.log_softmax(-1)
        answer = -log_p.gather(-1, tokens[..., None])[..., 0].mean(-1)
        correct = (logits.argmax(-1) == tokens).all(-1).double()
        halt = F.linear(z_H[:, 0], q_head.to(dtype))[:, 0].double()
        halting = F.binary_cross_entropy_with_logits(halt, correct, reduction="none")
        return (answer + 0.5 * halting).sum() / batch_size

    def embedded() -> Any:
        x = embed.to(dtype)[tokens]
        if c.num_registers:
            rows = F.pad(registers.to(dtype), (0, empty)).view(1, -1, c.hidden_size)
            x = torch.cat([rows.expand(batch_size, -1, -1), x], dim=1)
        if learned:
            x = 0.707106781 * (x + places.to(dtype))
        return x * math.sqrt(c.hidden_size)

    def step() -> float:
        x = embedded()
        z_H, z_L = (s.expand(x.shape) for s in start)
        with torch.no_grad():
            for _ in range(c.H_cycles - (c.gradient_cycles or c.H_cycles)):
                z_H, z_L = cycle(z_H, z_L, x)
        for _ in range(c.gradient_cycles or c.H_cycles):
            z_H, z_L = cycle(z_H, z_L, x)
        total = loss_of(z_H)
        total.backward()
        with torch.no_grad():
            if registers.grad is not None:
                registers.mul_(1 - 1e-4).sub_(1e-4 * registers.grad.sign())
                registers.grad = None
            adam.step()
            torch._foreach_lerp_(average, trained, 1e-3)
        adam.zero_grad()
        return float(total.detach())  # waits for the device, as a training that logs does

    return step
