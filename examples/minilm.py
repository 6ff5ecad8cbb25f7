"""Sentence embeddings with all-MiniLM-L6-v2, a BERT encoder (Devlin et al. 2018) of six layers.

`python examples/minilm.py` fetches the model once (84 MB) and compares three sentences.
"""

import tensorlogic as tl
from tensorlogic.testing.models import fetch

LAYERS, HEADS, EPS = 6, 12, 1e-12
T, D = tl.dims("T D")


def dense(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    return tl.linear(x, model[f"{name}.weight"], model[f"{name}.bias"])


def norm(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    return tl.layer_norm(x, model[f"{name}.weight"], model[f"{name}.bias"], eps=EPS)


def attention(model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
    q, k, v = (
        dense(model, f"{name}.self.{part}", x).reshape(len(x), HEADS, -1).permute(1, 0, 2)
        for part in ("query", "key", "value")
    )
    heads = tl.scaled_dot_product_attention(q, k, v).permute(1, 0, 2)
    return dense(model, f"{name}.output.dense", heads.reshape(x.shape))


@tl.function
def embed(model: tl.Model, ids: tl.Tensor[tl.int32, T]) -> tl.Tensor[tl.float16, D]:
    """The embedding of one sentence, given as its token ids: of length 1."""
    x = tl.embedding(ids, model["embeddings.word_embeddings.weight"])
    x = x + model["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + model["embeddings.token_type_embeddings.weight"][0]
    x = norm(model, "embeddings.LayerNorm", x)
    for i in range(LAYERS):
        name = f"encoder.layer.{i}"
        seen = attention(model, f"{name}.attention", x)
        x = norm(model, f"{name}.attention.output.LayerNorm", x + seen)
        hidden = tl.gelu(dense(model, f"{name}.intermediate.dense", x))
        x = norm(
            model, f"{name}.output.LayerNorm", x + dense(model, f"{name}.output.dense", hidden)
        )
    mean = x.mean(axis=0)
    return mean * tl.rsqrt((mean * mean).sum())


SENTENCES = {  # as the model's tokenizer cuts them, between [CLS] 101 and [SEP] 102
    "A man is eating food.": [101, 1037, 2158, 2003, 5983, 2833, 1012, 102],
    "Someone is having a meal.": [101, 2619, 2003, 2383, 1037, 7954, 1012, 102],
    "The stock market fell sharply today.": [101, 1996, 4518, 3006, 3062, 9249, 2651, 1012, 102],
}


def main() -> None:
    model = tl.load_model(fetch("minilm"))
    (first, ids), *others = SENTENCES.items()
    one = embed(model, tl.tensor(ids, dtype=tl.int32))
    print(first)
    for sentence, ids in others:
        alike = (one * embed(model, tl.tensor(ids, dtype=tl.int32))).sum().item()
        print(f"{alike:6.3f}  {sentence}")


if __name__ == "__main__":
    main()
