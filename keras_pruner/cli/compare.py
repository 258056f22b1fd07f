"""Compare two models: parameters, zeros, bytes, latency, accuracy, outputs."""

import pathlib

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    arguments.add_model(parser, "before", f"the first model: {arguments.MODEL}")
    arguments.add_model(parser, "after", "the second one, with the same inputs")
    arguments.add_data(parser)
    parser.add_argument("--labels", metavar="FILE", help="a .npy file: the accuracy")
    parser.add_argument(
        "--metrics",
        type=arguments.names,
        help="names with commas, e.g. accuracy; default: those of the models",
    )
    arguments.add_timing(parser)
    parser.add_argument("--html", metavar="FILE", help="write the table as HTML, too")
    arguments.add_loading(parser)
    arguments.add_json(parser)


def run(options):
    arguments.check_files(options)
    models = [
        files.load_model(path, options) for path in (options.before, options.after)
    ]
    from keras_pruner.reporting import compare

    data = labels = None
    if options.data is not None:
        data, labels = files.load_samples(options.data, models[0])
    if options.labels is not None:
        labels = files.load_labels(options.labels)
    found = compare(
        *models,
        data,
        labels=labels,
        metrics=None if options.metrics is None else list(options.metrics),
        engines=options.engines,
        batch_sizes=options.batch_sizes,
        num_threads=options.threads,
        rounds=options.rounds,
        verbose=not options.json,
    )
    files.show(options, found)
    if options.html is not None:
        pathlib.Path(options.html).write_text(found.to_html(), encoding="utf-8")
