# ruff: noqa: E501 (markup reads best in lines of its own)
"""A run as a picture: one HTML file without anything beside it, for a person to look at.

From top to bottom, on one time axis: acknowledgements per second, what was done to which node, how long publishes to
each partition waited, and which node led each group. Knows a history only, so a foreign one can be drawn too.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from html import escape

from corgi.history.gaps import fault_gaps
from corgi.history.model import OK, UNKNOWN, Fault, History
from corgi.history.verdicts import Verdict

WIDTH_PX = 1180.0  # of a short run; a long one is scrolled
SCALE_PX_PER_S = (8.0, 60.0)
ROW_PX, BAR_PX, CHART_PX, LABEL_PX = 18, 13, 90, 74
WAITS_MS = ((20, "w1"), (50, "w2"), (150, "w3"), (400, "w4"), (1500, "w5"))  # shown from this on, in this shade
CELL_S = 0.05
NODE_COLOURS = ("#4c78d8", "#e9a52b", "#2fa37c", "#b65bc9", "#d9604c", "#5aa9c9", "#8a8f3c", "#c9709b", "#7d6bd0")

STYLE = """
:root{--ink:#1d2430;--soft:#667085;--line:#e4e7ec;--page:#fff;--card:#f7f8fa;--calm:#d7eadf;--good:#1f7a4d;--bad:#c0362c;
--w1:#f6e3a1;--w2:#f2b75c;--w3:#ea8540;--w4:#d6503a;--w5:#8f1d2c;--area:#8fb3e8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#2b3340;--page:#12161d;--card:#1a2029;
--calm:#21392e;--good:#57c28d;--bad:#f0776c;--w1:#6b5f2c;--w2:#96702b;--w3:#b8652c;--w4:#d0503a;--w5:#ff6b6b;--area:#3d6096}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1400px;padding:28px;background:var(--page);color:var(--ink);
font:14px/1.5 system-ui,sans-serif}h1{font-size:22px;margin:0}h2{font-size:15px;margin:28px 0 8px}p{color:var(--soft);margin:4px 0}
.badges{display:flex;flex-wrap:wrap;gap:6px;margin:14px 0}.badge{padding:3px 10px;border-radius:99px;border:1px solid var(--line);
background:var(--card);font-size:12.5px}.badge b{font-weight:600}.clean b{color:var(--good)}.broken,.undecided{border-color:var(--bad)}
.broken b,.undecided b{color:var(--bad)}.idle b,.skipped b{color:var(--soft)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px;background:var(--card);padding:10px 0}
svg{display:block;font:11px system-ui,sans-serif}svg text{fill:var(--ink)}.dim{fill:var(--soft)}.grid{stroke:var(--line)}
.area{fill:var(--area)}.calm{fill:var(--calm)}.w1{fill:var(--w1)}.w2{fill:var(--w2)}.w3{fill:var(--w3)}.w4{fill:var(--w4)}
.w5{fill:var(--w5)}.fault{stroke:var(--page);stroke-width:1}.shade{fill:var(--ink);opacity:.05}.lost{fill:var(--bad)}
table{border-collapse:collapse;width:100%;font-size:13px}th{text-align:left;color:var(--soft);font-weight:500}
td,th{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}td.n{text-align:right;
font-variant-numeric:tabular-nums}.key i{display:inline-block;width:11px;height:11px;border-radius:3px;margin:0 4px 0 12px;
vertical-align:-1px}
"""


def timeline(history: History, verdicts: Sequence[Verdict], title: str, subtitle: str) -> str:
    """The whole page."""
    picture = _Picture(history)
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
            f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>",
            '<div class="badges">',
            *(_badge(verdict) for verdict in verdicts),
            "</div>",
            *_found(verdicts),
            "<h2>What happened</h2>",
            f'<div class="scroll">{"".join(picture.draw())}</div>',
            _key(picture.nodes),
            "<h2>Faults</h2>",
            *_fault_table(history, picture.start),
            "</body></html>",
            "",
        ]
    )


class _Picture:
    """The SVG, row by row from the top."""

    def __init__(self, history: History) -> None:
        self._history = history
        times = [send.due for send in history.sends] + [fault.began for fault in history.faults]
        ends = [send.ended for send in history.sends] + [fault.ended for fault in history.faults]
        self.start = min(times, default=0.0)
        self._seconds = max(max(ends, default=1.0) - self.start, 1.0)
        self._scale = min(max((WIDTH_PX - LABEL_PX) / self._seconds, SCALE_PX_PER_S[0]), SCALE_PX_PER_S[1])
        targets = {fault.target for fault in history.faults} | {change.node for change in history.leaderships}
        self.nodes = sorted(targets)
        self._y = 24.0

    def draw(self) -> Iterator[str]:
        body = [*self._acknowledgements(), *self._faults(), *self._waits(), *self._leaders()]
        width = LABEL_PX + self._seconds * self._scale + 16
        height = self._y + 6
        yield f'<svg width="{width:.0f}" height="{height:.0f}" role="img" aria-label="timeline">'
        yield from self._axis(height)
        yield from body
        yield "</svg>"

    def _x(self, time: float) -> float:
        return LABEL_PX + min(max(time - self.start, 0.0), self._seconds) * self._scale

    def _axis(self, height: float) -> Iterator[str]:
        step = next(step for step in (1, 2, 5, 10, 20, 30, 60) if step * self._scale >= 60 or step == 60)
        for second in range(0, math.floor(self._seconds) + 1, step):
            x = self._x(self.start + second)
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="16" y2="{height - 6:.0f}"/>'
            yield f'<text class="dim" x="{x:.1f}" y="11" text-anchor="middle">{second} s</text>'
        for fault in self._history.faults:
            x, wide = self._span(fault.began, fault.ended)
            yield f'<rect class="shade" x="{x:.1f}" y="16" width="{wide:.1f}" height="{height - 22:.0f}"/>'

    def _span(self, began: float, ended: float) -> tuple[float, float]:
        x = self._x(began)
        until = self._x(ended) if ended >= began else self._x(self.start + self._seconds)
        return x, max(until - x, 1.5)

    def _heading(self, text: str) -> str:
        self._y += 16
        return f'<text x="8" y="{self._y - 4:.0f}" font-weight="600">{escape(text)}</text>'

    def _label(self, text: str) -> str:
        return f'<text class="dim" x="8" y="{self._y + BAR_PX - 3:.0f}">{escape(text)}</text>'

    def _acknowledgements(self) -> Iterator[str]:
        cell_s = max(0.1, 2 / self._scale)
        counts: Counter[int] = Counter()
        lost: Counter[int] = Counter()
        for send in self._history.sends:
            cell = int((send.ended - self.start) / cell_s)
            (counts if send.status == OK else lost)[cell] += 1
        yield self._heading("acknowledged per second")
        most = max(counts.values(), default=1)
        top, floor = self._y, self._y + CHART_PX
        points = [f"{self._x(self.start):.1f},{floor:.0f}"]
        for cell in range(int(self._seconds / cell_s) + 1):
            x = self._x(self.start + (cell + 0.5) * cell_s)
            points.append(f"{x:.1f},{floor - CHART_PX * counts[cell] / most:.1f}")
        points.append(f"{self._x(self.start + self._seconds):.1f},{floor:.0f}")
        yield f'<polygon class="area" points="{" ".join(points)}"/>'
        yield f'<text class="dim" x="8" y="{top + 10:.0f}">{most / cell_s:,.0f}/s</text>'
        for cell, count in sorted(lost.items()):
            x = self._x(self.start + cell * cell_s)
            yield f'<circle class="lost" cx="{x:.1f}" cy="{floor - 4:.0f}" r="3"><title>{count} without success</title></circle>'
        self._y = floor + 8

    def _faults(self) -> Iterator[str]:
        yield self._heading("faults")
        gaps = {gap.fault: gap.seconds for gap in fault_gaps(self._history)}
        by_target: dict[str, list[Fault]] = defaultdict(list)
        for fault in sorted(self._history.faults, key=lambda fault: fault.began):
            by_target[fault.target].append(fault)
        for target in self.nodes:
            yield self._label(target)
            for fault in by_target[target]:
                x, wide = self._span(fault.began, fault.ended)
                told = f"{fault.kind}: {fault.detail or fault.target}; write gap {gaps[fault] * 1000:.0f} ms"
                yield (
                    f'<g><title>{escape(told)}</title><rect class="fault" x="{x:.1f}" y="{self._y:.0f}" width="{wide:.1f}" '
                    f'height="{BAR_PX}" rx="3" fill="{self._colour(target)}"/>'
                )
                if wide > 6.2 * len(fault.kind):
                    yield f'<text x="{x + 4:.1f}" y="{self._y + 10:.0f}" style="fill:#fff">{escape(fault.kind)}</text>'
                yield "</g>"
            self._y += ROW_PX

    def _waits(self) -> Iterator[str]:
        yield self._heading("how long a publish to each partition waited")
        waits: dict[str, dict[int, float]] = defaultdict(dict)
        cell_s = max(CELL_S, 1.5 / self._scale)
        for send in self._history.sends:
            cells = waits[str(send.partition)]
            waited = (send.ended if send.ended >= 0 else self.start + self._seconds) - send.due
            cell = int((send.due - self.start) / cell_s)
            cells[cell] = max(cells.get(cell, 0.0), waited)
        for partition, cells in sorted(waits.items(), key=lambda entry: (len(entry[0]), entry[0])):
            yield self._label(partition)
            x, wide = self._span(self.start, self.start + self._seconds)
            yield f'<rect class="calm" x="{x:.1f}" y="{self._y:.0f}" width="{wide:.1f}" height="{BAR_PX}"/>'
            for cell, waited in sorted(cells.items()):
                shade = bisect_right([ms for ms, _ in WAITS_MS], waited * 1000)
                if shade:
                    x, wide = self._span(self.start + cell * cell_s, self.start + (cell + 1) * cell_s)
                    yield (
                        f'<rect class="{WAITS_MS[shade - 1][1]}" x="{x:.1f}" y="{self._y:.0f}" width="{wide + 0.3:.1f}" '
                        f'height="{BAR_PX}"><title>{waited * 1000:.0f} ms</title></rect>'
                    )
            self._y += ROW_PX

    def _leaders(self) -> Iterator[str]:
        changes: dict[int, list[tuple[float, str]]] = defaultdict(list)
        for change in sorted(self._history.leaderships, key=lambda change: change.time):
            changes[change.group].append((change.time, change.node))
        if not changes:
            return
        yield self._heading("who led each group")
        for group, led in sorted(changes.items()):
            yield self._label(f"group {group}")
            for at, (time, node) in enumerate(led):
                until = led[at + 1][0] if at + 1 < len(led) else self.start + self._seconds
                if until < self.start:
                    continue
                x, wide = self._span(time, until)
                yield (
                    f'<rect x="{x:.1f}" y="{self._y:.0f}" width="{wide:.1f}" height="{BAR_PX}" fill="{self._colour(node)}">'
                    f"<title>{escape(node)} from {time - self.start:.2f} s</title></rect>"
                )
            self._y += ROW_PX

    def _colour(self, node: str) -> str:
        return NODE_COLOURS[self.nodes.index(node) % len(NODE_COLOURS)]


def _badge(verdict: Verdict) -> str:
    told = f"{verdict.looked_at:,} looked at" if verdict.status != "broken" else f"{verdict.count:,} found"
    return f'<span class="badge {verdict.status}" title="{told}">{escape(verdict.name)} <b>{verdict.status}</b></span>'


def _found(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        for violation in verdict.first:
            yield f"<p><b>{escape(verdict.name)}</b> {escape(violation.detail)}</p>"


def _key(nodes: Sequence[str]) -> str:
    named = [
        f'<i style="background:{NODE_COLOURS[at % len(NODE_COLOURS)]}"></i>{escape(n)}' for at, n in enumerate(nodes)
    ]
    waits = [f'<i style="background:var(--{shade})"></i>from {ms} ms' for ms, shade in WAITS_MS]
    return f'<p class="key">{"".join(named)} {"".join(waits)}</p>'


def _fault_table(history: History, start: float) -> Iterator[str]:
    yield "<table><tr><th>at</th><th>fault</th><th>whom</th><th>for</th><th>write gap</th><th>what it was</th></tr>"
    for gap in fault_gaps(history):
        fault = gap.fault
        yield (
            f'<tr><td class="n">{fault.began - start:.1f} s</td><td>{escape(fault.kind)}</td><td>{escape(fault.target)}</td>'
            f'<td class="n">{fault.ended - fault.began:.1f} s</td><td class="n">{gap.seconds * 1000:,.0f} ms</td>'
            f"<td>{escape(fault.detail)}</td></tr>"
        )
    yield "</table>"
    doubtful = sum(send.status == UNKNOWN for send in history.sends)
    yield f"<p>{len(history.sends):,} publishes, {doubtful:,} of them with an unknown outcome.</p>"
