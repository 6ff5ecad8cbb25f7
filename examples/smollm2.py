"""Answers of SmolLM2-135M-Instruct, a decoder of the Llama kind (Touvron et al. 2023), in GGUF.

`python examples/smollm2.py` fetches the model once (93 MB) and asks it a question.
"""

from collections.abc import Iterator
from itertools import chain

import tensorlogic as tl
from tensorlogic.testing.models import fetch

CONTEXT = 256  # tokens that the caches hold; the model was trained on up to 8192
Tensors = list[tl.Tensor]
T, V = tl.dims("T V")


def dense(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    return tl.linear(x, model[f"{name}.weight"])


def norm(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    eps = model.metadata["llama.attention.layer_norm_rms_epsilon"]
    return tl.rms_norm(x, model[f"{name}.weight"], eps=eps)


def attention(model: tl.Model, name: str, x: tl.Tensor, at: int, cache: Tensors) -> Tensors:
    """What the tokens x at positions `at` and on see, and the cache with their keys and values."""
    width, base = (model.metadata[f"llama.rope.{key}"] for key in ("dimension_count", "freq_base"))
    q, k, v = (
        dense(model, f"{name}_{part}", x).reshape(len(x), -1, width).permute(1, 0, 2)
        for part in "qkv"
    )
    q, k = (tl.rope(part, at, base, layout="pairs") for part in (q, k))
    keys, values = (old.update(at, new, axis=1) for old, new in zip(cache, (k, v), strict=True))
    heads = tl.scaled_dot_product_attention(q, keys, values, causal=True, length=at + len(x))
    seen = heads.permute(1, 0, 2).reshape(len(x), -1)
    return [dense(model, f"{name}_output", seen), keys, values]


@tl.function
def step(
    model: tl.Model, ids: tl.Tensor[tl.int32, T], at: int, caches: list[Tensors]
) -> tuple[tl.Tensor[tl.float32, V], list[Tensors]]:
    """The logits of the token after ids, which stand at positions `at` and on; and the caches."""
    x, grown = tl.embedding(ids, model["token_embd.weight"]), []
    for i, cache in enumerate(caches):
        name = f"blk.{i}"
        h = norm(model, f"{name}.attn_norm", x)
        seen, *cache = attention(model, f"{name}.attn", h, at, cache)
        x = x + seen
        h = norm(model, f"{name}.ffn_norm", x)
        h = tl.silu(dense(model, f"{name}.ffn_gate", h)) * dense(model, f"{name}.ffn_up", h)
        x = x + dense(model, f"{name}.ffn_down", h)
        grown.append(cache)
    last = norm(model, "output_norm", x[-1]).to(tl.float32)
    return dense(model, "token_embd", last), grown


def empty(model: tl.Model, device: str | None = None) -> list[Tensors]:
    """A cache for each layer: keys and values, [heads, positions, width]."""
    sizes = model.metadata
    heads, width = sizes["llama.attention.head_count_kv"], sizes["llama.rope.dimension_count"]
    return [
        [tl.zeros([heads, CONTEXT, width], device=device) for _ in range(2)]
        for _ in range(sizes["llama.block_count"])
    ]


def generate(model: tl.Model, ids: list[int]) -> Iterator[int]:
    """The likeliest tokens after ids, one by one, up to the one that ends the answer."""
    at, caches = 0, empty(model)
    while at + len(ids) <= CONTEXT:
        logits, caches = step(model, tl.tensor(ids, dtype=tl.int32), at, caches)
        tl.eval(logits, *chain.from_iterable(caches))  # at once: a later look would compute anew
        at, ids = at + len(ids), [int(logits.argmax().item())]
        yield ids[0]
        if ids[0] == model.metadata["tokenizer.ggml.eos_token_id"]:
            break


def text(model: tl.Model, ids: list[int]) -> str:
    """Tokens as text: their letters stand for bytes, Ġ for a space, Ċ for the end of a line."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = sorted({*range(256)} - {*plain})
    byte = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(shifted)}
    names = model.metadata["tokenizer.ggml.tokens"]
    return bytes(byte[c] for i in ids for c in names[i]).decode("utf-8", "replace")


# As the tokenizer cuts it: "<|im_start|>system\nYou are a helpful AI assistant named SmolLM,
# trained by Hugging Face<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n
# <|im_start|>assistant\n"
QUESTION = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407),
    *(19712, 8182, 2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520),
    *(9531, 198),
]


def main() -> None:
    model = tl.load_model(fetch("smollm2"))
    *answer, _ = generate(model, QUESTION)
    print(text(model, answer))


if __name__ == "__main__":
    main()
