"""Prunes within `fit`: attaches to the model, makes the updates, checks the end."""
