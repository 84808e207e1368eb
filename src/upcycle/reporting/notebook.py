"""What a notebook shows of a value: small fragments of HTML that need nothing else, with every text escaped."""

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup, escape

from upcycle.audit.findings import Audit
from upcycle.evaluation.results import RunEvaluation
from upcycle.history import History
from upcycle.reporting.curves import curves_figure
from upcycle.reporting.html import inlined
from upcycle.reporting.names import METRICS, cost, counted, interval, percent, printable, sentence, short, three
from upcycle.reporting.style import PALETTE

SHOWN = 5
"""Classes of a prediction."""

# a notebook's own colors, in the dark too, wherever they are not part of the figure
_COLORS = PALETTE | {
    "paper": "transparent",
    "ink": "currentColor",
    "soft": "currentColor",
    "rule": "rgb(128 128 128 / .35)",
}
_STYLE = Markup(";").join(Markup("--{}:{}").format(name, color) for name, color in _COLORS.items())


def _text(text: str) -> Markup:
    return escape(printable(text))


def _fragment(*parts: str) -> str:
    return str(Markup('<div style="max-width:50rem;{}">{}</div>').format(_STYLE, Markup("").join(parts)))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table; the first column names the rows."""
    left, right = Markup('style="text-align:left"'), Markup('style="text-align:right"')

    def line(cells: Sequence[str], tag: str) -> Markup:
        return Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup("<{0} {1}>{2}</{0}>").format(tag if at else "th", right if at else left, _text(cell))
                for at, cell in enumerate(cells)
            )
        )

    body = Markup("").join(line(row, "td") for row in rows)
    return Markup(
        '<table><caption style="text-align:left">{}</caption><thead>{}</thead><tbody>{}</tbody></table>'
    ).format(_text(caption), line(header, "th"), body)


def run_fragment(name: str, history: History, evaluation: RunEvaluation | None) -> str:
    """The learning curves of a run, and its test metrics with their intervals once they are there."""
    parts = [Markup("<p><b>{}</b></p>").format(_text(name))]
    if len(history):
        parts.append(inlined({"curves": curves_figure(history)})["curves"].element)
    split = "test" if evaluation and evaluation.test else "val"
    scores = evaluation.named.get(split) if evaluation else None
    if scores:
        caption = counted(scores.n, {"test": "test image", "val": "validation image"}[split])
        found = [(label, cost if key == "log_loss" else three, getattr(scores, key)) for key, label in METRICS.items()]
        rows = [(label, write(metric.value), interval(metric, write)) for label, write, metric in found if metric]
        parts.append(table(f"Metrics of {caption}", ("metric", "value", "95 % interval"), rows))
    return _fragment(*parts)


def prediction_fragment(probabilities: Mapping[str, float]) -> str:
    """One bar per class, the most probable five."""
    classes = sorted(probabilities.items(), key=lambda item: -item[1])
    bar = Markup(
        '<tr><th style="text-align:left">{}</th><td style="text-align:right">{}</td>'
        '<td style="width:12rem"><div style="height:.7em;width:{:.1f}%;background:var(--blue)"></div></td></tr>'
    )
    rows = Markup("").join(
        bar.format(_text(short(name, 40)), percent(share), 100 * share) for name, share in classes[:SHOWN]
    )
    more = len(classes) - SHOWN
    left_out = Markup("<p>{} left out</p>").format(counted(more, "class", "classes")) if more > 0 else ""
    return _fragment(Markup("<table><tbody>{}</tbody></table>").format(rows), left_out)


def scan_fragment(audit: Audit) -> str:
    """The findings of a scan: what was found, its effect, and what to do."""
    images = f"{counted(audit.images, 'image')} of {counted(len(audit.classes), 'class', 'classes')}"
    item = Markup("<li><b>{}</b>{}<br>{} {}</li>")
    findings = Markup("").join(
        item.format(
            _text(finding.title),
            " (changes the result)" if finding.serious else "",
            _text(sentence(finding.effect)) if finding.effect else "",
            _text(sentence(finding.advice)) if finding.advice else "",
        )
        for finding in audit.findings
    )
    heading = f"{_text(audit.data)}: {images}, {counted(len(audit.findings), 'finding')}"
    return _fragment(Markup("<p><b>{}</b></p><ul>{}</ul>").format(Markup(heading), findings))
