"""What a training loop of one's own asks of a pruner: steps, counts, order, files."""
