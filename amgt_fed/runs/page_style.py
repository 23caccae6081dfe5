"""The look of every page written to a file: light and dark, wide and narrow."""

STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --line: #d8dde3; --back: #ffffff; --panel: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b1; --line: #343b45; --back: #14171c; --panel: #1d2229; } }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1.25rem 4rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p.lead { color: var(--soft); margin: 0 0 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; }
img { width: 100%; height: auto; background: #fff; border-radius: 6px; border: 1px solid var(--line); }
pre { background: var(--panel); padding: .9rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
details summary { cursor: pointer; color: var(--soft); }
"""
