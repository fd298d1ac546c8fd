# SPDX-License-Identifier: LGPL-2.1-or-later
"""A flame graph: who was called by whom, as wide as the time that was spent there. An SVG without a program in it."""
import html

WIDTH, ROW, MARGIN, HEAD = 1200, 17, 10, 46
LETTER = 6.6
COLOURS = {"process": "#c9ccd6", "thread": "#dfe1e8", "kernel": "#f2a65a", "memferry": "#7fb7e6", "library": "#b9d98c"}


class Node:
    def __init__(self, name, kind):
        self.name, self.kind, self.seconds, self.inner = name, kind, 0.0, {}

    def add(self, frames, seconds):
        self.seconds += seconds
        node = self
        for name, kind in frames:
            node = node.inner.setdefault((name, kind), Node(name, kind))
            node.seconds += seconds

    def depth(self):
        return 1 + max((node.depth() for node in self.inner.values()), default=0)


def tree(samples, names):
    """`names`: pid to what the process is called."""
    root = Node("all", "process")
    for sample in samples:
        root.add([(names[sample.pid], "process"), (sample.thread, "thread"), *sample.frames], sample.seconds)
    return root


def _boxes(node, x, level, scale, total):
    """Yields (x, level, width, node) where there is something to see."""
    width = node.seconds * scale
    if width < 0.4:
        return
    yield x, level, width, node
    for inner in sorted(node.inner.values(), key=lambda each: each.name):
        yield from _boxes(inner, x, level + 1, scale, total)
        x += inner.seconds * scale


def draw(root, title, path):
    height = HEAD + root.depth() * ROW + MARGIN
    scale = (WIDTH - 2 * MARGIN) / root.seconds
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
             f'font-family="monospace" font-size="11">',
             f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
             f'<text x="{MARGIN}" y="18" font-family="sans-serif" font-size="15">{html.escape(title)}</text>']
    x = MARGIN
    for kind in ("memferry", "library", "kernel"):
        parts.append(f'<rect x="{x}" y="26" width="11" height="11" fill="{COLOURS[kind]}"/><text x="{x + 15}" y="36">{kind}</text>')
        x += 100
    for x, level, width, node in _boxes(root, MARGIN, 0, scale, root.seconds):
        y = height - MARGIN - (level + 1) * ROW
        share = 100 * node.seconds / root.seconds
        room = int((width - 4) / LETTER)
        label = node.name if len(node.name) <= room else node.name[:room - 1] + "…" if room > 3 else ""
        parts.append(f'<g><title>{html.escape(node.name)}: {node.seconds * 1000:.1f} ms, {share:.1f} %</title>'
                     f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.4):.1f}" height="{ROW - 1}" rx="1" fill="{COLOURS[node.kind]}"/>'
                     + (f'<text x="{x + 3:.1f}" y="{y + 12}">{html.escape(label)}</text>' if label else "") + "</g>")
    parts.append("</svg>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n")
