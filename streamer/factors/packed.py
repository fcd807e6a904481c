"""One event as the compiled kernel and the numpy path both read it: twelve numbers of eight bytes.

A batch of events is one matrix (E, 12) of int64; hashes and the weight are the same bytes seen as uint64 and float64.
"""

from __future__ import annotations

import struct

(
    POSITION,  # of the record in its batch
    USER,  # of the batch's users
    INDEX,  # of the item in the space, -1 for an unknown one
    ITEM,  # hash, uint64
    TARGET,  # partition of the item's owner
    WEIGHT,  # float64
    TIMESTAMP,
    RECEIVED,  # the broker's timestamp
    REQUEST,  # hash, uint64
    FINGERPRINT,
    OFFSET,
    KIND,  # 0 for a positive event
) = range(12)
WIDTH = 12

pack = struct.Struct("<qqqQqdqqQQqq").pack
