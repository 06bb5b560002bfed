"""How the pages of ``make run`` look: one style sheet, inlined in each page."""

from pygments.formatters import HtmlFormatter

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1f2328; --soft: #59636e; --ground: #ffffff; --shade: #f6f8fa;
  --line: #d1d9e0; --link: #0757ba; --mark: #0757ba; --bad: #b3261e; --good: #1a6b34; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6edf3; --soft: #a3adb8; --ground: #15191f; --shade: #1e242c;
  --line: #3d444d; --link: #79b8ff; --mark: #79b8ff; --bad: #ff8a80; --good: #6fd58b; } }
* { box-sizing: border-box; }
html { font: 17px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
body { margin: 0; color: var(--ink); background: var(--ground); }
a { color: var(--link); }
header { border-bottom: 1px solid var(--line); background: var(--shade); font-size: 0.85rem; }
header nav, main, footer { max-width: 52rem; margin: 0 auto; padding: 0 1.25rem; }
header nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; justify-content: space-between;
  padding-top: 0.6rem; padding-bottom: 0.6rem; }
main { padding-top: 1rem; padding-bottom: 4rem; }
footer { color: var(--soft); font-size: 0.85rem; padding-bottom: 2rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 1.5rem 0 1rem; }
h2 { font-size: 1.4rem; line-height: 1.3; margin: 2.5rem 0 0.75rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
.anchor-link { visibility: hidden; margin-left: 0.4rem; color: var(--soft); text-decoration: none; }
:is(h1, h2, h3, h4):hover .anchor-link, .anchor-link:focus { visibility: visible; }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.85rem; }
code { background: var(--shade); padding: 0.1em 0.3em; border-radius: 4px; }
code.tex { outline: 1px dashed var(--bad); }
pre { margin: 0; line-height: 1.5; overflow-x: auto; }
pre code { background: none; padding: 0; }
pre > code { display: block; }
.text > pre, .highlight { margin: 1rem 0; }
.highlight { background: var(--shade); border: 1px solid var(--line); border-radius: 6px;
  padding: 0.65rem 0.85rem; }
.cell { margin: 1rem 0; }
.cell .highlight { margin: 0; }
.exercise, .extension { border-left: 4px solid var(--mark); padding-left: 1rem; }
.label { font-size: 0.75rem; color: var(--soft); letter-spacing: 0.03em; margin-bottom: 0.15rem; }
.output { margin: 0.6rem 0 0; overflow-x: auto; }
.output > pre { padding: 0.15rem 0.85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.stderr, .error { color: var(--bad); border-left: 3px solid var(--bad); }
.html, .figure { color-scheme: light; color: #1f2328; background: #ffffff; border-radius: 6px; }
.html { font-size: 0.9rem; }
.html a { color: #0757ba; }
.html code { background: #f6f8fa; }
.figure { overflow: hidden; }
@media (prefers-color-scheme: dark) { .html { padding: 0.6rem 0.85rem; } }
.output img { max-width: 100%; height: auto; background: #ffffff; }
.note { color: var(--soft); font-size: 0.85rem; border: 1px dashed var(--line); border-radius: 6px;
  padding: 0.5rem 0.85rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
th, td { padding: 0.35rem 0.75rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
.html th, .html td { border-bottom-color: #d1d9e0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.text { overflow-wrap: break-word; }
blockquote { margin: 1rem 0; padding: 0 1rem; border-left: 3px solid var(--line); color: var(--soft); }
details { border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 0.85rem; }
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "Noto Sans Math", math;
  font-size: 1.08em; }
math[display=block] { margin: 0.9rem 0; overflow-x: auto; overflow-y: hidden; }
mtd[columnalign=right] { text-align: right; padding-right: 0; }
mtd[columnalign=left] { text-align: left; padding-left: 0; }
mtd[columnalign=left] + mtd[columnalign=left] { padding-left: 1em; }
mtr > mtd { padding-top: 0.25ex; padding-bottom: 0.25ex; }
[mathvariant^=bold] { font-weight: bold; }
.passed { color: var(--good); } .failed { color: var(--bad); font-weight: 600; }
.skip { position: absolute; left: -999rem; } .skip:focus { left: 0; }
@media print { header, .skip { display: none; } .cell { break-inside: avoid; } }
"""


def style_sheet() -> str:
    """The style sheet: no import, no font and no picture from elsewhere."""
    light = HtmlFormatter(style="xcode").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    plain = ".highlight, .highlight pre { background: var(--shade); color: var(--ink); }"
    return "\n".join([light, f"@media (prefers-color-scheme: dark) {{\n{dark}\n}}", _STYLE.strip(), plain])
