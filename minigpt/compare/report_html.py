"""The report as one HTML file, without script, style sheet, font or image from outside."""

from html import escape
from pathlib import Path

from minigpt.compare import document as doc
from minigpt.compare.figures import Figure
from minigpt.compare.report_text import address
from minigpt.study.run import Run
from minigpt.terminal import count, escape_controls

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --soft: #59636e; --line: #d0d4d9;
  --panel: #f6f8fa;
  --link: #0550ae; --good: #1a7f37; --bad: #cf222e; --open: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --soft: #9aa4af;
  --line: #3b434c;
  --panel: #1c2127; --link: #7ab7ff; --good: #4cc26a; --bad: #ff7b72; --open: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 88rem; padding: 1.5rem clamp(0.8rem, 3vw, 2.5rem) 4rem;
  background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 1rem; padding-top: 1rem;
  border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 2rem 0 0.5rem; }
a { color: var(--link); text-decoration: none; } a:hover, a:focus { text-decoration: underline; }
.verdict { border-left: 5px solid var(--open); background: var(--panel); padding: 0.7rem 1rem;
  margin: 0.6rem 0;
  border-radius: 4px; }
.verdict b { display: block; color: var(--open); text-transform: uppercase; font-size: 0.8rem;
  letter-spacing: 0.06em; }
.verdict b a { color: inherit; }
.verdict.better { border-color: var(--good); } .verdict.better b { color: var(--good); }
.verdict.worse { border-color: var(--bad); } .verdict.worse b { color: var(--bad); }
.verdict.same { border-color: var(--link); } .verdict.same b { color: var(--link); }
.doubts { padding-left: 1.2rem; } .doubts li { margin: 0.25rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem;
  font-variant-numeric: tabular-nums; }
td a { color: inherit; text-decoration: underline dotted var(--soft);
  text-underline-offset: 0.25em; }
td a:hover, td a:focus { color: var(--link); }
th, td { text-align: left; padding: 0.4rem 0.7rem; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; } th { background: var(--panel); font-weight: 600; }
.note, figcaption { color: var(--soft); font-size: 0.85rem; margin: 0.5rem 0; max-width: 62rem; }
.figures { display: grid; gap: 1.2rem; margin-top: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figure { margin: 0; padding: 0.6rem; border: 1px solid var(--line); border-radius: 6px;
  min-width: 0; }
figure.wide { grid-column: 1 / -1; } figure.wide svg { max-width: 60rem; margin: 0 auto; }
figure svg { display: block; width: 100%; height: auto; }
@media (max-width: 30rem) { figure { overflow-x: auto; } figure svg { min-width: 30rem; } }
@media print { .figures { grid-template-columns: 1fr 1fr; } body { font-size: 12px; padding: 0; } }
.runs { font-size: 0.8rem; overflow-wrap: anywhere; padding-left: 2.2rem; }
  .runs li { margin: 0.4rem 0; }
.runs li:target { background: var(--panel); outline: 2px solid var(--link); outline-offset: 3px; }
"""
CLASSES = {"better": "better", "worse": "worse", "equivalent": "same", "no difference": "same"}


def html(document: doc.Document, out: Path) -> str:
    """The text of report.html. out: its folder, for relative links to run folders."""
    numbers = document.numbered_runs()
    body = [f"<h1>{escape(document.title)}</h1>"]
    for block in document.blocks:
        match block:
            case doc.Heading(title):
                body.append(f"<h2>{escape(title)}</h2>")
            case doc.VerdictLine(kind, sentence, runs):
                word = f"<b>{_link(doc.Cell(kind, runs), numbers)}</b>"
                style = CLASSES.get(kind, "")
                body.append(f'<p class="verdict {style}">{word}{escape(sentence)}</p>')
            case doc.Bullets(title, items):
                listed = "".join(f"<li>{escape(item)}</li>" for item in items)
                body.append(f'<h3>{escape(title)}</h3><ul class="doubts">{listed}</ul>')
            case doc.Paragraph(words):
                body.append(f'<p class="note">{escape(words)}</p>')
            case doc.Table():
                body.append(_table(block, numbers))
            case doc.Figures(figures, drawn):
                body.append(f'<div class="figures">{"".join(map(_figure, figures))}</div>')
                body.append(f'<p class="note">Drawn from {_link(drawn, numbers)}.</p>')
    body.append("<h2>Runs behind the numbers</h2><ol class='runs'>")
    for runs, number in numbers.items():
        links = (f'<a href="{address(run, out)}/">{escape(run.name)}</a>' for run in runs)
        body.append(f'<li id="runs-{number}">{", ".join(links)}</li>')
    body.append("</ol>")
    return escape_controls(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(document.title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _figure(figure: Figure) -> str:
    kind = ' class="wide"' if figure.wide else ""
    return f"<figure{kind}>{figure.svg}<figcaption>{escape(figure.caption)}</figcaption></figure>"


def _table(table: doc.Table, numbers: dict[tuple[Run, ...], int]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.rows[0])
    cells = ("".join(f"<td>{_link(cell, numbers)}</td>" for cell in r.values()) for r in table.rows)
    rows = "".join(f"<tr>{row}</tr>" for row in cells)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{escape(table.title)}</h3><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _link(cell: doc.Cell, numbers: dict[tuple[Run, ...], int]) -> str:
    """The text of a cell, linked to the runs it rests on."""
    text = escape(cell.text)
    if not (cell.runs and text):
        return text
    runs = count(len(cell.runs), "run")
    return f'<a href="#runs-{numbers[cell.runs]}" title="{runs}">{text}</a>'
