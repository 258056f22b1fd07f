"""Time and memory of `prune_one_shot` and `prune_structured` on large random models.

    python benchmarks/large_models.py resnet one_shot
    python benchmarks/large_models.py resnet structured
    python benchmarks/large_models.py gpt2 one_shot --allocation uniform

"resnet" is ResNet50V2 at 64x64 with 512 samples. "gpt2" is KerasHub's GPT-2 with 124
million parameters, 12 layers of 768, and 64 sequences of 128 tokens; it needs
`pip install keras-hub`. Weights are random, so only time and memory mean something.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_pruner import prune_one_shot, prune_structured


def resnet():
    """Returns ResNet50V2 with random biases, and images."""
    generator = np.random.default_rng(0)
    model = keras.applications.ResNet50V2(
        weights=None, input_shape=(64, 64, 3), classes=10
    )
    for variable in model.trainable_weights:
        if variable.name in ("beta", "bias"):
            variable.assign(0.1 * generator.normal(size=variable.shape))
    return model, generator.normal(size=(512, 64, 64, 3)).astype("float32")


def gpt2(width=768, num_layers=12, length=128, vocabulary=50257):
    """Returns a decoder, and sequences of random tokens."""
    import keras_hub

    model = keras_hub.models.GPT2Backbone(
        vocabulary_size=vocabulary, num_layers=num_layers, num_heads=width // 64,
        hidden_dim=width, intermediate_dim=4 * width, max_sequence_length=length,
    )  # fmt: skip
    tokens = np.random.default_rng(0).integers(0, vocabulary, (64, length))
    ones = np.ones((64, length), "int32")
    return model, {"token_ids": tokens.astype("int32"), "padding_mask": ones}


MODELS = {"resnet": resnet, "gpt2": gpt2}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("task", choices=("one_shot", "structured"))
    parser.add_argument("--sparsity", type=float, help="or share of FLOPs to remove")
    parser.add_argument("--allocation")
    parser.add_argument("--batch", type=int, help="samples in a batch")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    model, data = MODELS[arguments.model]()
    share = arguments.sparsity or (0.8 if arguments.model == "resnet" else 0.5)
    wall, busy = time.perf_counter(), time.process_time()
    if arguments.task == "one_shot":
        _, report = prune_one_shot(
            model, data, share, allocation=arguments.allocation, check=False,
            batch_size=arguments.batch, verbose=False,
        )  # fmt: skip
    else:
        _, report = prune_structured(
            model, data=data, flops=1 - (arguments.sparsity or 0.5),
            batch_size=arguments.batch, verbose=False,
        )  # fmt: skip
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(report.headline)
    print(f"{wall:.0f} s, {busy:.0f} s of processor time, {peak:.1f} GB at most")


if __name__ == "__main__":
    main()
