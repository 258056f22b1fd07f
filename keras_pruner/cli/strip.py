"""Make a plain copy of a model: no wrapper layers, optimizer or masks."""

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    arguments.add_model(parser)
    arguments.add_output(parser)
    arguments.add_loading(parser)
    arguments.add_printing(parser)


def run(options):
    arguments.check_files(options)
    model = files.load_model(options.model, options)
    from keras_pruner.reporting import report
    from keras_pruner.slimming import strip

    plain = strip(model)
    files.save_model(plain, options)
    files.show(options, report(plain))
