"""The commands of `python -m streamer`, one file each; `cli` puts them together."""
