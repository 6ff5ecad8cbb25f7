"""Names of NumPy and PyTorch, and what is written here instead: what error messages say."""

from __future__ import annotations

_IMMUTABLE = "tensors are immutable and need no copy: use the tensor itself"
_NO_GRADIENTS = "there are no gradients"
_RANDOM = "random numbers depend on a seed: `tl.random.normal(shape, seed=0)`, `tl.random.uniform`"

OF_TENSORS = {
    **dict.fromkeys(("view", "view_as", "resize"), "write `x.reshape(...)`"),
    **dict.fromkeys(("astype", "type"), "write `x.to(tl.float32)`"),
    **dict.fromkeys(("float", "double"), "write `x.to(tl.float32)`"),
    **dict.fromkeys(("int", "long"), "write `x.to(tl.int32)`"),
    **dict.fromkeys(("cpu", "cuda"), 'write `x.to("cpu")` or `x.to("gpu")`'),
    **dict.fromkeys(("clone", "copy", "detach", "contiguous"), _IMMUTABLE),
    **dict.fromkeys(("grad", "backward", "requires_grad"), _NO_GRADIENTS),
    **dict.fromkeys(("t", "mT"), "write `x.T`"),
    **dict.fromkeys(("data", "values"), "write `x.numpy()`"),
    "half": "write `x.to(tl.float16)`",
    "numel": "write `x.size`",
    "dim": "write `x.ndim`",
    "ravel": "write `x.flatten()`",
    "swapaxes": "write `x.transpose(0, 1)`",
    "clamp": "write `x.clip(low, high)`",
}
OF_PACKAGE = {
    **dict.fromkeys(("array", "asarray", "as_tensor"), "write `tl.tensor(data)`"),
    **dict.fromkeys(("cat", "concatenate"), "write `tl.concat([a, b], axis=0)`"),
    **dict.fromkeys(("vstack", "hstack"), "write `tl.concat([a, b], axis=0)`"),
    **dict.fromkeys(("dot", "mm", "bmm"), "write `a @ b`"),
    **dict.fromkeys(("randn", "rand", "manual_seed"), _RANDOM),
    **dict.fromkeys(("no_grad", "grad"), _NO_GRADIENTS),
    **dict.fromkeys(("allclose", "isclose"), "`tensorlogic.testing.assert_close` compares"),
    **dict.fromkeys(("float", "double"), "the dtypes are `tl.float16` and `tl.float32`"),
    **dict.fromkeys(("int", "long"), "the dtype is `tl.int32`"),
    "half": "the dtype is `tl.float16`",
    "zeros_like": "write `tl.zeros(x.shape, x.dtype)`",
    "ones_like": "write `tl.ones(x.shape, x.dtype)`",
    "full_like": "write `tl.full(x.shape, value, x.dtype)`",
    "chunk": "write `tl.split(x, parts)`",
    "clamp": "write `tl.clip(x, low, high)`",
    "load": "write `tl.load_model(path)`",
    "save": "write `tl.save_model({name: x}, path)`",
    "attention": "write `tl.scaled_dot_product_attention(q, k, v)`",
}
KEYWORDS = {
    **dict.fromkeys(("dim", "dims", "axes"), "axis"),
    **dict.fromkeys(("min", "a_min"), "low"),
    **dict.fromkeys(("max", "a_max"), "high"),
    "keepdim": "keepdims",
    "input": "x",
    "is_causal": "causal",
    "attn_mask": "mask",
    "epsilon": "eps",
}
