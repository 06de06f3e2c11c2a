"""The plots: the table, with one panel per row, and how cost grows, with one panel per column."""

import math
from collections.abc import Callable, Iterable, Iterator

from bench.report import number
from bench.results import Json
from bench.svg import BLUE, GREY, INK, RED, Drawing

_LEFT_OUT = {"crowd_certificates", "idle_few", "warm_p90", "warm_busiest"}
_COLUMNS = 2
_PANEL = 460  # pixels wide
_LABEL = 95  # of these for the proxies' names
_VALUE = 60  # and for the figure to the right of a dot
_LINE = 18
_GROWTH_HEIGHT = 190

Scale = Callable[[float], float]


def drawings(parts: Json) -> dict[str, str]:
    """The contents of the SVG files, by file name."""
    found = {}
    if any(peer["figures"] for peer in parts.get("table", {"peers": []})["peers"]):
        found["results.svg"] = str(_table(parts["table"]))
    if "growth" in parts:
        found["growth.svg"] = str(_growth(list(parts["growth"].values())))
    return found


def _panels(count: int, height: float, top: float) -> Iterator[tuple[float, float]]:
    """The top left corners of ``count`` panels, row by row."""
    for index in range(count):
        yield 10 + index % _COLUMNS * (_PANEL + 20), top + index // _COLUMNS * height


def _sheet(count: int, height: float, top: float) -> Drawing:
    return Drawing(20 + _COLUMNS * (_PANEL + 20), top + math.ceil(count / _COLUMNS) * height)


def _table(part: Json) -> Drawing:
    peers = [peer for peer in part["peers"] if peer["figures"]]
    measured = {key for peer in peers for key in peer["figures"]} - _LEFT_OUT
    rows = [row for row in part["rows"] if row["key"] in measured]
    height = (len(peers) + 2.5) * _LINE
    drawing = _sheet(len(rows), height, 30)
    drawing.text(10, 18, "Less is better; each scale is logarithmic. Median and range of the rounds; ", INK)
    drawing.text(440, 18, "dashed: the floor, what the cryptography alone costs.", RED)
    for row, (x, y) in zip(rows, _panels(len(rows), height, 30), strict=True):
        drawing.text(x, y + 12, f"{row['title']}{', ' + row['unit'] if row['unit'] else ''}", bold=True)
        cells = [peer["figures"].get(row["key"]) for peer in peers]
        floor = part["floor"].get(row["key"])
        ends = [cell[key] for cell in cells if cell for key in ("low", "high")] + ([floor] if floor else [])
        scale = _log(ends, x + _LABEL, x + _PANEL - _VALUE)
        if floor:
            drawing.line(scale(floor), y + 18, scale(floor), y + (len(peers) + 1.2) * _LINE, RED, dashed=True)
        for index, (peer, cell) in enumerate(zip(peers, cells, strict=True)):
            middle = y + (index + 1.7) * _LINE
            colour = BLUE if index == 0 else INK
            drawing.text(x + _LABEL - 8, middle + 4, peer["name"], colour, "end")
            drawing.line(x + _LABEL, middle, x + _PANEL - _VALUE, middle, "#eee")
            if cell is None:
                continue
            drawing.line(scale(cell["low"]), middle, scale(cell["high"]), middle, colour)
            drawing.dot(scale(cell["median"]), middle, colour)
            drawing.text(scale(cell["high"]) + 8, middle + 4, number(cell["median"]), colour)
    return drawing


def _growth(curves: list[Json]) -> Drawing:
    panels = [(curve, index) for curve in curves for index in range(1, len(curve["columns"]) + 1)]
    drawing = _sheet(len(panels), _GROWTH_HEIGHT, 10)
    for (curve, index), (x, y) in zip(panels, _panels(len(panels), _GROWTH_HEIGHT, 10), strict=True):
        points = [(point[0], point[index]) for point in curve["points"]]
        drawing.text(x, y + 12, f"{curve['title']}: {curve['columns'][index - 1]}", bold=True)
        left, right, top, bottom = x + 50, x + _PANEL - 20, y + 28, y + _GROWTH_HEIGHT - 40
        wide = points[0][0] > 0 and points[-1][0] / points[0][0] > 1000
        across = (_log if wide else _linear)([point[0] for point in points], left, right)
        highest = max(value for _, value in points) * 1.15 or 1.0
        up = _linear([0.0, highest], bottom, top)
        for share in (0.0, 0.5, 1.0):
            drawing.line(left, up(highest * share), right, up(highest * share), "#eee")
            drawing.text(left - 6, up(highest * share) + 4, number(highest * share), GREY, "end")
        for position in [point[0] for point in points] if wide else [points[0][0], points[-1][0]]:
            drawing.text(across(position), bottom + 14, f"{position:,.0f}", GREY, "middle")
        drawing.text((left + right) / 2, bottom + 28, curve["x"], GREY, "middle")
        drawing.path([(across(position), up(value)) for position, value in points], BLUE)
    return drawing


def _linear(values: Iterable[float], start: float, end: float) -> Scale:
    found = list(values)
    low, high = min(found), max(found)
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1)


def _log(values: Iterable[float], start: float, end: float) -> Scale:
    """A logarithmic scale; zero is put at its left end."""
    least = min((value for value in values if value > 0), default=1.0)
    positions = [math.log10(max(value, least)) for value in values]
    linear = _linear(positions, start, end)
    return lambda value: linear(math.log10(max(value, least)))
