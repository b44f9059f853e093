"""Circuits of several trained models, compared with the seed as the unit; and one model's circuit over its training."""
