"""Remove the channels that zeros make useless; the outputs stay equal."""

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    arguments.add_model(parser)
    arguments.add_output(parser)
    arguments.add_data(
        parser, f"{arguments.DATA}. Both models run on them, and must be equal"
    )
    arguments.add_loading(parser)
    arguments.add_printing(parser)


def run(options):
    arguments.check_files(options)
    model = files.load_model(options.model, options)
    from keras_pruner.slimming import shrink

    samples = files.samples_of(options, model)
    with files.working("shrinking"):
        smaller, found = shrink(model, samples)
    files.save_model(smaller, options)
    files.show(options, found)
