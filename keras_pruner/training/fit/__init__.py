"""What `fit` asks of pruning: in and out of a model, the course of a run, its end."""
