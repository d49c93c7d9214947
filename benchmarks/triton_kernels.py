"""Triton kernels of attention with a bias: all keys and values of a head fit into one program.

A row of scores is never cut, so its softmax needs no second pass. Backward computes S = scale q kᵀ
+ b and P = exp(S - L) again, where L is the log of the sum that forward kept. With the gradient G
of the output and D = rowsum(G * out): dS = P * (G vᵀ - D), dv = Pᵀ G, dq = scale dS k, and
dk = scale dSᵀ q. The gradient of the bias is dS summed over the images, in the order of the
images inside one program. Nothing is added atomically.

Queries, keys and values may have any strides but that of channels, which is 1. Outputs and their
gradients lie as [batch, tokens, heads, WIDTH]. Sums are in float32.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def read(pointer, places, tokens, stride, WIDTH: tl.constexpr):  # noqa: N803
    """The vectors of some tokens of a head, [places, WIDTH]; 0 after the last token."""
    channels = tl.arange(0, WIDTH)
    at = pointer + places[:, None] * stride + channels[None, :]
    return tl.load(at, mask=places[:, None] < tokens, other=0.0)


@triton.jit
@no_type_check
def write(pointer, values, places, tokens, stride, WIDTH: tl.constexpr):  # noqa: N803
    """The opposite, in the type of what is pointed to."""
    channels = tl.arange(0, WIDTH)
    at = pointer + places[:, None] * stride + channels[None, :]
    tl.store(at, values.to(pointer.dtype.element_ty), mask=places[:, None] < tokens)


@triton.jit
@no_type_check
def product(left, right):
    """left right, summed in float32, without TF32."""
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
@no_type_check
def scores(query, key, bias, rows, columns, tokens, scale):
    """scale q kᵀ + b of a head, [rows, columns]; -inf where there is no key."""
    at = bias + rows[:, None] * tokens + columns[None, :]
    inside = (rows[:, None] < tokens) & (columns[None, :] < tokens)
    added = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    found = product(query, tl.trans(key)) * scale + added
    return tl.where(columns[None, :] < tokens, found, -float("inf"))


@triton.jit
@no_type_check
def forward_kernel(
    query,
    key,
    value,
    bias,
    out,
    logsum,
    batch_stride,
    head_stride,
    token_stride,
    heads,
    tokens,
    scale,
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
):
    """One program: some rows of one head of one image. COLUMNS are at least all tokens."""
    pair = tl.program_id(1).to(tl.int64)
    batch, head = pair // heads, pair % heads
    start = batch * batch_stride + head * head_stride
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    q = read(query + start, rows, tokens, token_stride, WIDTH)
    k = read(key + start, columns, tokens, token_stride, WIDTH)
    v = read(value + start, columns, tokens, token_stride, WIDTH)
    s = scores(q, k, bias + head * tokens * tokens, rows, columns, tokens, scale)
    largest = tl.max(s, axis=1)
    shares = tl.exp(s - largest[:, None])
    total = tl.sum(shares, axis=1)
    mixed = product(shares.to(v.dtype), v) / total[:, None]
    place = out + (batch * tokens * heads + head) * WIDTH
    write(place, mixed, rows, tokens, heads * WIDTH, WIDTH)
    tl.store(logsum + pair * tokens + rows, largest + tl.log(total), mask=rows < tokens)


@triton.jit
@no_type_check
def backward_kernel(
    query,
    key,
    value,
    bias,
    out,
    logsum,
    pull,
    query_pull,
    key_pull,
    value_pull,
    delta,
    batch_stride,
    head_stride,
    token_stride,
    heads,
    tokens,
    scale,
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
):
    """One program: all rows of one head of one image, ROWS at a time. Keeps D for the bias."""
    pair = tl.program_id(0).to(tl.int64)
    batch, head = pair // heads, pair % heads
    start = batch * batch_stride + head * head_stride
    place = (batch * tokens * heads + head) * WIDTH
    stride = heads * WIDTH
    columns = tl.arange(0, COLUMNS)
    k = read(key + start, columns, tokens, token_stride, WIDTH)
    v = read(value + start, columns, tokens, token_stride, WIDTH)
    dk = tl.zeros([COLUMNS, WIDTH], dtype=tl.float32)
    dv = tl.zeros([COLUMNS, WIDTH], dtype=tl.float32)
    for first in range(0, tokens, ROWS):
        rows = first + tl.arange(0, ROWS)
        q = read(query + start, rows, tokens, token_stride, WIDTH)
        g = read(pull + place, rows, tokens, stride, WIDTH)
        o = read(out + place, rows, tokens, stride, WIDTH)
        d = tl.sum(g.to(tl.float32) * o.to(tl.float32), axis=1)
        tl.store(delta + pair * tokens + rows, d, mask=rows < tokens)
        # Where there is no token, exp(S - inf) is 0.
        kept = tl.load(logsum + pair * tokens + rows, mask=rows < tokens, other=float("inf"))
        s = scores(q, k, bias + head * tokens * tokens, rows, columns, tokens, scale)
        p = tl.exp(s - kept[:, None])
        dv += product(tl.trans(p).to(g.dtype), g)
        ds = (p * (product(g, tl.trans(v)) - d[:, None]) * scale).to(k.dtype)
        dk += product(tl.trans(ds), q)
        write(query_pull + place, product(ds, k), rows, tokens, stride, WIDTH)
    write(key_pull + place, dk, columns, tokens, stride, WIDTH)
    write(value_pull + place, dv, columns, tokens, stride, WIDTH)


@triton.jit
@no_type_check
def bias_kernel(
    query,
    key,
    value,
    bias,
    logsum,
    pull,
    delta,
    bias_pull,
    batch_stride,
    head_stride,
    token_stride,
    batch,
    heads,
    tokens,
    scale,
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    SHARES: tl.constexpr,  # noqa: N803
):
    """One program: a tile of one head's bias, over every SHARES-th image. bias_pull is float32
    [SHARES, heads, tokens, tokens]."""
    part = tl.program_id(2).to(tl.int64)
    share, head = part // heads, part % heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for number in range((batch - share + SHARES - 1) // SHARES):
        image = share + number * SHARES
        pair = image * heads + head
        start = image * batch_stride + head * head_stride
        place = (image * tokens * heads + head) * WIDTH
        q = read(query + start, rows, tokens, token_stride, WIDTH)
        k = read(key + start, columns, tokens, token_stride, WIDTH)
        v = read(value + start, columns, tokens, token_stride, WIDTH)
        g = read(pull + place, rows, tokens, heads * WIDTH, WIDTH)
        d = tl.load(delta + pair * tokens + rows, mask=rows < tokens, other=0.0)
        kept = tl.load(logsum + pair * tokens + rows, mask=rows < tokens, other=float("inf"))
        s = scores(q, k, bias + head * tokens * tokens, rows, columns, tokens, scale)
        p = tl.exp(s - kept[:, None])
        total += p * (product(g, tl.trans(v)) - d[:, None])
    at = bias_pull + part * tokens * tokens + rows[:, None] * tokens + columns[None, :]
    inside = (rows[:, None] < tokens) & (columns[None, :] < tokens)
    tl.store(at, total, mask=inside)
