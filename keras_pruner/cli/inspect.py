"""List the kernels of a model: shapes, zeros, and why some are not prunable."""

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    arguments.add_model(parser)
    arguments.add_loading(parser)
    parser.add_argument(
        "--pattern", default="1x1", help="tell which kernels it can prune; default: 1x1"
    )
    parser.add_argument(
        "--groups",
        action="store_true",
        help="list the channels that can be removed only together, too",
    )
    arguments.add_printing(parser)


def run(options):
    arguments.check_files(options)
    model = files.load_model(options.model, options)
    from keras_pruner.channels import ChannelGraph
    from keras_pruner.reporting import report

    found = report(model, pattern=options.pattern)
    graph = ChannelGraph(model) if options.groups else None
    if options.json:
        groups = {} if graph is None else {"groups": _rows_of(graph)}
        files.show(options, found, model=model.name, **groups)
        return
    number = len(model.layers)
    noun = "layer" if number == 1 else "layers"
    print(f"{model.name} ({type(model).__name__}), {number} {noun}")
    print(files.text_of(found, options))
    if graph is not None:
        print("", graph, sep="\n")


def _rows_of(graph):
    """Returns a dict for each group of channels."""
    return [
        {
            "name": group.name,
            "kind": group.kind,
            "size": group.size,
            "members": [[member.path, member.axis] for member in group.members],
        }
        for group in graph.groups
    ]
