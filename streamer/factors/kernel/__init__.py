"""The plain user in one compiled pass: row bytes in, events folded, vector solved, row bytes out. Needs numba.

A user is *plain* where nothing rare happens: a well-formed row without extras, positive events only, a system that
conjugate gradients solve, a finite vector within the norm cap. `refresh.refresh` leaves everyone else alone and says
so; the numpy path (`streamer.steps.refresh`) takes them, and is what this package is tested against:

    history, keys, counts, outcomes   the same bytes: no fast maths, no fused multiply-add
    vector                            both within the promised error of the exact one

rules, jit (what is shared) <- rows (bytes) <- folding, weighing, solving <- refresh (a batch)
"""
