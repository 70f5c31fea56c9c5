"""The report that is filed: one HTML file with nothing outside it, no script, and every proof in it."""

from importlib import resources
from itertools import islice
from typing import Any

from jinja2 import Environment, StrictUndefined

from aggregator.audit.findings import Finding
from aggregator.audit.proofs import Proofs
from aggregator.audit.report import finding_fields
from aggregator.audit.telling import RESULTS, plain

# A browser shows some thousand rows at once; a proof has up to 20 KB. What is left out is said, and --json has it.
MAX_FINDINGS = 5000
MAX_PROOFS = 500


def render(report: dict[str, Any], findings: list[Finding], proofs: Proofs) -> str:
    """The page of `report`; `proofs` are of what findings say ought to be there."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plain"] = plain
    environment.filters["plain_text"] = lambda text: "\n".join(map(plain, text.split("\n")))
    template = environment.from_string(resources.files(__package__ or "").joinpath("report.html").read_text("utf-8"))
    told = [finding_fields(finding) for finding in islice(findings, MAX_FINDINGS)]
    for fields, finding in zip(told, findings[:MAX_PROOFS], strict=False):
        fields["proof"], fields["unprovable"] = proofs.of(finding)
    for fields in told[MAX_PROOFS:]:
        fields["proof"], fields["unprovable"] = "", f"only the first {MAX_PROOFS} findings have their proofs here"
    left_out = len(findings) - len(told)
    # Of the keys of the proofs that were made by now.
    statuses = list(proofs.statuses())
    return template.render(report=report, findings=told, left_out=left_out, results=RESULTS, statuses=statuses)
