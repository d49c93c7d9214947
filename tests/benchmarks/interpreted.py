"""The Triton kernels of attention on a CPU, in Triton's interpreter: prints relative errors.

`TRITON_INTERPRET=1 python tests/benchmarks/interpreted.py` prints a line of JSON for each case: the
errors against float64 of the output and of the gradients of query, key, value and bias, and whether
a second run gave the same bits. The variable has to be set before Triton is imported, so this is a
process of its own. The interpreter cannot multiply bfloat16.
"""

from __future__ import annotations

import json

import torch

from benchmarks.triton_attention import biased_attention


def formula(query, key, value, bias):
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 + bias
    return scores.softmax(dim=-1) @ value


def results(function, tensors, pull):
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    out = function(*tensors)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull.to(out.dtype))]


def main(dtype: str, batch: int, tokens: int, width: int, learned: bool) -> None:
    torch.manual_seed(0)
    kind, heads = getattr(torch, dtype), 2
    # As the backbone has them: three parts of one matrix, and an output that becomes rows again.
    qkv = torch.randn(batch, tokens, 3, heads, width, dtype=kind)
    query, key, value = (part.requires_grad_() for part in qkv.permute(2, 0, 3, 1, 4).unbind(0))
    bias = torch.randn(heads, tokens, tokens, dtype=kind).requires_grad_(learned)
    pull = torch.randn(batch, heads, tokens, width, dtype=kind)
    tensors = (query, key, value, bias)
    found, again = (results(biased_attention, tensors, pull) for _ in range(2))
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]
    wanted = results(formula, exact, pull)
    assert len(found) == len(wanted)
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
    same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    case = {"dtype": dtype, "tokens": tokens, "width": width, "learned": learned}
    print(json.dumps({**case, "errors": errors, "same": same}))


if __name__ == "__main__":
    main("float32", 1, 197, 64, True)
    main("float32", 5, 33, 32, True)  # a batch that does not divide into its shares
    main("float32", 2, 10, 16, False)
    main("float16", 1, 197, 32, True)
    main("float16", 2, 64, 64, True)
