"""Transformers: decoder-only and encoder-decoder."""
