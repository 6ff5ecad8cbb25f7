"""Sentence embeddings with all-MiniLM-L6-v2, a BERT encoder (Devlin et al. 2018) of six layers.

`python examples/minilm.py` fetches the model once (91 MB) and compares three sentences.
"""

import tensorlogic as tl
from tensorlogic.testing.models import fetch

LAYERS, HEADS, EPS = 6, 12, 1e-12


def dense(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    return tl.linear(x, model[f"{name}.weight"], model[f"{name}.bias"])


def norm(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    return tl.layer_norm(x, model[f"{name}.weight"], model[f"{name}.bias"], eps=EPS)


def attention(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    tokens, width = x.shape
    q, k, v = (
        dense(model, f"{name}.self.{part}", x).reshape(tokens, HEADS, -1).permute(1, 0, 2)
        for part in ("query", "key", "value")
    )
    heads = tl.scaled_dot_product_attention(q, k, v)
    return dense(model, f"{name}.output.dense", heads.permute(1, 0, 2).reshape(tokens, width))


@tl.function
def embed(model: tl.Model, ids: "tl.Tensor[tl.int32, T]") -> "tl.Tensor[tl.float16, D]":
    """The embedding of one sentence, given as token ids: mean over its tokens, of length 1."""
    x = tl.embedding(ids, model["embeddings.word_embeddings.weight"])
    x = x + model["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + model["embeddings.token_type_embeddings.weight"][0]
    x = norm(model, "embeddings.LayerNorm", x)
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        x = norm(
            model,
            f"{layer}.attention.output.LayerNorm",
            x + attention(model, f"{layer}.attention", x),
        )
        hidden = tl.gelu(dense(model, f"{layer}.intermediate.dense", x))
        x = norm(
            model, f"{layer}.output.LayerNorm", x + dense(model, f"{layer}.output.dense", hidden)
        )
    mean = x.mean(axis=0)
    return mean * tl.rsqrt((mean * mean).sum())
