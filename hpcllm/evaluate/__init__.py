"""Perplexity, BLEU and samples of a trained model."""
