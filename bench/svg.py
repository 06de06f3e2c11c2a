"""The few SVG shapes that the plots need."""

from xml.sax.saxutils import escape

INK, GREY, BLUE, RED = "#222", "#999", "#1769aa", "#c0392b"


class Drawing:
    """A picture on white, in pixels; ``str()`` gives the file's contents."""

    def __init__(self, width: float, height: float) -> None:
        self._size = width, height
        self._shapes: list[str] = []

    def __str__(self) -> str:
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
            f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="11">'
        )
        return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *self._shapes, "</svg>"]) + "\n"

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = INK, dashed: bool = False) -> None:
        """A line from one point to another."""
        dash = ' stroke-dasharray="3 3"' if dashed else ""
        self._shapes.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>')

    def path(self, points: list[tuple[float, float]], colour: str = INK) -> None:
        """A line through points, each marked with a dot."""
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for x, y in points:
            self.dot(x, y, colour, 2.5)

    def dot(self, x: float, y: float, colour: str = INK, radius: float = 4) -> None:
        """A filled circle."""
        self._shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')

    def text(
        self, x: float, y: float, words: str, colour: str = INK, anchor: str = "start", bold: bool = False
    ) -> None:
        """``anchor`` is ``start``, ``middle`` or ``end``."""
        weight = ' font-weight="bold"' if bold else ""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )
