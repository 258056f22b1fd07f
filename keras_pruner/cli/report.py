"""Measure a model: zeros, FLOPs, bytes, and latency on the engines installed."""

import pathlib

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    arguments.add_model(parser)
    arguments.add_data(parser)
    arguments.add_timing(parser)
    parser.add_argument("--html", metavar="FILE", help="write all as HTML, too")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the zeros of each kernel, e.g. to OUT.png"
    )
    arguments.add_loading(parser)
    arguments.add_printing(parser)


def run(options):
    arguments.check_files(options)
    model = files.load_model(options.model, options)
    from keras_pruner.reporting import measure, plot_report, report

    samples = files.samples_of(options, model)
    zeros = report(model)
    if options.plot is not None:
        plot_report(zeros).figure.savefig(options.plot)
    costs = measure(
        model,
        data=samples,
        engines=options.engines,
        batch_size=options.batch_sizes or 1,
        num_threads=options.threads,
        rounds=options.rounds,
        verbose=not options.json,
    )
    flops = costs.flops[0]
    parts = [zeros, costs] + [flops] * (not isinstance(flops, str))
    if options.html is not None:
        text = "\n".join(part.to_html() for part in parts)
        pathlib.Path(options.html).write_text(text, encoding="utf-8")
    if options.json:
        files.print_json(
            {
                "model": model.name,
                "kernels": zeros.rows(),
                "totals": zeros.totals() | costs.totals()["model"],
                "latency": costs.rows(),
                "layers": [] if isinstance(flops, str) else flops.rows(),
            }
        )
    else:
        print(*(files.text_of(part, options) for part in parts), sep="\n\n")
