"""The maths that batch and stream share: weigh, fold, solve, move; pure numpy and scipy."""
