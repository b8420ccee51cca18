"""The figures of a report, each drawn once: as PNG, and as SVG in the colours of the page."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without black and yellow: told apart by the colour-blind, readable on
# white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
INK = "#1f2328"
GRID = "#d0d4d9"
STYLE: Any = {
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), GRID),
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,  # also in PDF: TrueType, not outlines
    "svg.hashsalt": "minigpt",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # names of arms and keys mean what they say
}
SIZE = (5.4, 3.6)  # inches; one panel a figure, so that a narrow screen stacks them


@dataclass(frozen=True)
class Figure:
    name: str  # of its files, without what tells their kind
    caption: str
    files: dict[str, bytes]  # by name: the PNG, and the further one that was asked for
    svg: str  # a part of a page
    wide: bool  # by more than half: it needs a row of its own


def draw_figure(name: str, draw: "Callable[[Axes], str | None]", kind: str) -> Figure | None:
    """One figure; None if there is nothing to draw. draw: draws and returns the caption.

    kind: png, or svg or pdf for a further file.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=SIZE, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        axes.set_axisbelow(True)
        caption = draw(axes)
        if caption is None:
            return None
        # Without date and version, so that the same figure gives the same bytes.
        files = {f"{name}.png": _saved(canvas, "png", dpi=130, metadata={"Software": None})}
        svg = _saved(canvas, "svg", transparent=True, metadata={"Date": None})
        if kind == "svg":
            files[f"{name}.svg"] = svg
        if kind == "pdf":
            files[f"{name}.pdf"] = _saved(canvas, "pdf", metadata={"CreationDate": None})
    wide = canvas.get_figwidth() > 1.5 * SIZE[0]
    return Figure(name, caption, files, page_svg(svg.decode(), name), wide)


def _saved(canvas: Any, kind: str, **how: Any) -> bytes:
    content = io.BytesIO()
    canvas.savefig(content, format=kind, **how)
    return content.getvalue()


def page_svg(svg: str, name: str) -> str:
    """matplotlib's SVG as a part of a page.

    It has no XML header, no size, no foreign references and ids of its own.
    Its colours are the CSS variables of the page.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    return svg.replace(INK, "var(--ink)").replace(GRID, "var(--line)").strip()
