"""Renders the chart of argv[1] with the values that stdin gives as JSON, offline, by the library of Helm itself.

Prints the manifests as one JSON array; what Helm refuses stands on stderr, exit 1. Installed by `scripts/prerequisites tests`.
"""
import json
import sys

import helm_python as helm
import yaml

values = json.load(sys.stdin)
try:
    chart = helm.Chart.load(sys.argv[1])
    chart.validate_schema(values)
    files = chart.render(values, name="release", namespace="apart")
except helm.HelmError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
manifests = [
    document
    for name, text in sorted(files.items())
    if name.endswith(".yaml")
    for document in yaml.safe_load_all(text)
    if document
]
json.dump(manifests, sys.stdout)
