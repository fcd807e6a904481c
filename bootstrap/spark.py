"""Item vectors by MLlib's implicit ALS, for a matrix that one machine would alternate over for too long.

MLlib (``org.apache.spark.ml.recommendation.ALS``; Hu et al. 2008, doi 10.1109/ICDM.2008.22, with the ridge of Zhou et
al. 2008, doi 10.1007/978-3-540-68880-8_32) solves, for a user u with n_u pairs, and likewise for an item i with n_i::

    (Y'Y + ρ n_u I + sum a|r| y y') x = sum (1 + a|r|) y

With a = 1 and r = c - 1 these are our confidences and our b = sum c y. What differs is the ridge: ours is λ for every
user and λ_items for every item, MLlib's grows with the row. They are made equal for rows of mean length n̄::

    x.y is the same for x s, y / s      so      ρ n̄_u = λ / s²,  ρ n̄_i = λ_items s²
    ρ = sqrt(λ λ_items / (n̄_u n̄_i))           s² = sqrt(λ / λ_items) sqrt(n̄_i / n̄_u)           v = s y

so that a user of mean length has in the stream, against the vectors v, the very equation that MLlib solved. One
confidence serves both sides here: the items', with ages counted from the training cut.

The driver holds the matrix (it goes to the executors as Arrow batches, 12 bytes a pair) and the item vectors; the
published user vectors come from the stream's own solver, as they do with the native engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bootstrap.session import session

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from bootstrap.als import Training

F32 = npt.NDArray[np.float32]

# Pairs of one block at most: what an executor's task holds at once.
_PAIRS = 2_000_000
# MLlib counts and prefers only what is above 0, and c - 1 of an old entry may vanish.
_LEAST = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class Scale:
    """ridge: ρ; vectors: s, what MLlib's item vectors are multiplied by."""

    ridge: float
    vectors: float


def scale_of(by_item: csr_array, training: Training) -> Scale:
    """ρ and s of a matrix; rows without a pair have no part in the means."""
    items = np.count_nonzero(np.diff(by_item.indptr))
    users = len(np.unique(by_item.indices))
    of_users, of_items = training.ridges
    per_user, per_item = by_item.nnz / users, by_item.nnz / items
    ridge = np.sqrt(of_users * of_items / (per_user * per_item))
    return Scale(float(ridge), float(np.sqrt(of_users / (ridge * per_user))))


def fit_items(by_item: csr_array, training: Training, master: str) -> F32:
    """Item vectors (items, k) of a confidence matrix (items, users); 0 for an item without a pair.

    ``training`` gives dimension, iterations, seed and ridges; the solver is MLlib's Cholesky. The same seed and number
    of cores give the same vectors up to rounding.

    Raises:
        ConfigError: Spark or its Java is missing.
    """
    scale = scale_of(by_item, training)
    with session(master) as spark:
        factors = train(spark, by_item, training, scale.ridge).itemFactors
        return vectors(factors, by_item.shape[0], training.dimension) * np.float32(scale.vectors)


def train(spark: Any, by_item: csr_array, training: Training, ridge: float) -> Any:
    """MLlib's model of the matrix in this session, with ρ = ``ridge``."""
    from pyspark.ml.recommendation import ALS

    blocks = max(spark.sparkContext.defaultParallelism, -(-by_item.nnz // _PAIRS))
    als = ALS(
        rank=training.dimension,
        maxIter=training.iterations,
        regParam=ridge,
        numUserBlocks=blocks,
        numItemBlocks=blocks,
        implicitPrefs=True,
        alpha=1.0,
        userCol="user",
        itemCol="item",
        ratingCol="rating",
        seed=training.seed,
    )
    return als.fit(spark.createDataFrame(pairs(by_item)))


def vectors(factors: Any, rows: int, dimension: int) -> F32:
    """One side's factors of a model as (rows, dimension), by number; 0 for a row that the model does not know."""
    out = np.zeros((rows, dimension), np.float32)
    for batch in factors.toArrow().to_batches():
        numbers, flat = batch.column("id").to_numpy(), batch.column("features").flatten().to_numpy()
        out[numbers] = flat.reshape(len(numbers), dimension)
    return out


def pairs(by_item: csr_array) -> Any:
    """The matrix as an Arrow table: user and item int32, rating = c - 1 float32."""
    import pyarrow as pa

    item = np.repeat(np.arange(by_item.shape[0], dtype=np.int32), np.diff(by_item.indptr))
    rating = np.maximum((by_item.data - 1).astype(np.float32), _LEAST)
    return pa.table({"user": by_item.indices.astype(np.int32), "item": item, "rating": rating})
