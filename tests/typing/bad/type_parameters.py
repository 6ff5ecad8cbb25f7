"""Dims as the type parameters of Python 3.12 that do not fit."""

import tensorlogic as tl
from tensorlogic import Tensor, float16


@tl.function
def forward[N, D_in, D_out](
    input: Tensor[float16, N, D_in],
    weights: Tensor[float16, D_in, D_out],
    bias: Tensor[float16, D_in],
) -> Tensor[float16, N, D_out]:
    return input @ weights + bias  # error expected


def any_dtype[T, *B, N, D](x: Tensor[T, *B, N, D]) -> Tensor[T, *B, N, D]:
    return x.T  # error expected
