// The style of an exported page, and its hash, which is all that page allows; a test computes it again.

export const HASH = "sha256-14FAb1mqVh6Ytv4qw/rSQRheCRZgQYXqZTBcsviMoR8=";

export const STYLE = `:root { color-scheme: light dark; --page: light-dark(#fbfbf9, #14161a); --card: light-dark(#ffffff, #1c1f25); --ink: light-dark(#17191c, #e8e9ea); --soft: light-dark(#5a6069, #a0a6af); --line: light-dark(#d9dad5, #363b44); --accent: light-dark(#2b6cab, #fde73a); --area: light-dark(#b9cfe4, #2f5f80); --course: light-dark(#b04a00, #ffb26b); }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1.25rem 4rem; max-width: 76rem; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; -webkit-text-size-adjust: 100%; }
h1 { margin: 0 0 1rem; font-size: 1.5rem; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; font-size: 1.05rem; font-weight: 650; }
h3 { margin: 1.25rem 0 .35rem; font-size: 1rem; }
.label, .number, footer, figcaption { color: var(--soft); font-size: .85rem; }
.prompt { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-weight: 500; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem .35rem; align-items: center; font-size: .8rem; }
.legend [class^="s"] { padding: .1rem .45rem; border: 1px solid var(--line); border-radius: .25rem; }
.text { padding: .9rem 1rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card); font: .95rem/1.85 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.t { padding: .12em 0; border-radius: .15em; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.s1 { background: light-dark(#f0f3cf, #22305a); color: light-dark(#111111, #ffffff); }
.s2 { background: light-dark(#cfe6b4, #25507d); color: light-dark(#111111, #ffffff); }
.s3 { background: light-dark(#93cfb4, #22717f); color: light-dark(#111111, #ffffff); }
.s4 { background: light-dark(#4fb0c0, #2fa583); color: light-dark(#111111, #0b0d10); }
.s5 { background: light-dark(#2b6cab, #93cf4e); color: light-dark(#ffffff, #0b0d10); }
.s6 { background: light-dark(#202c74, #fde73a); color: light-dark(#ffffff, #0b0d10); }
.s5, .s6 { text-decoration: underline; text-underline-offset: .2em; }
.t:hover, .t:focus { outline: 2px solid var(--ink); outline-offset: 1px; }
.nl::before { content: "↵"; opacity: .45; font-style: normal; }
.nil::before { content: "∅"; opacity: .45; font-style: normal; }
.d { display: none; position: fixed; z-index: 1; left: 0; right: 0; bottom: 0; max-height: 55vh; overflow: auto; padding: .8rem 1rem; background: var(--card); color: var(--ink); border-top: 1px solid var(--line); box-shadow: 0 -.3rem 1.5rem rgb(0 0 0 / .22); font: .85rem/1.45 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; white-space: normal; text-decoration: none; pointer-events: none; }
.t:focus > .d { display: block; }
.t:hover > .d { display: block; z-index: 2; }
.name { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 1rem; overflow-wrap: anywhere; }
.number { float: right; }
.fact { display: flex; justify-content: space-between; gap: 1rem; font-variant-numeric: tabular-nums; }
.fact span:first-child { color: var(--soft); }
.others { display: block; margin-top: .5rem; padding-top: .4rem; border-top: 1px solid var(--line); }
.other { display: grid; grid-template-columns: minmax(0, 1fr) 5rem 4.6rem; gap: .5rem; align-items: center; font-variant-numeric: tabular-nums; }
.other > span:first-child { font-family: ui-monospace, "DejaVu Sans Mono", monospace; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.other > span:last-child { text-align: right; }
.other svg { width: 100%; height: .55rem; background: var(--line); border-radius: .15rem; }
.other rect { fill: var(--accent); }
.drawn { font-weight: 700; }
.strip { margin: .75rem 0 1.25rem; }
.plot { display: flex; height: 7.5rem; margin-top: .25rem; }
.axis { flex: none; height: 100%; aspect-ratio: 52 / 116; }
.axis text { fill: var(--soft); font-size: 11px; text-anchor: end; font-family: system-ui, "Liberation Sans", sans-serif; }
.chart { flex: 1; min-width: 0; height: 100%; }
.chart path { vector-effect: non-scaling-stroke; fill: none; }
.grid { stroke: var(--line); stroke-width: 1px; }
.chart .area { fill: var(--area); }
.dot { stroke: var(--ink); stroke-width: 4px; stroke-linecap: round; }
.course { stroke: var(--course); stroke-width: 2px; }
.target { stroke: var(--course); stroke-width: 1.5px; stroke-dasharray: 5 4; }
.settings { margin: 0; }
.settings div { display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: 1rem; padding: .2rem 0; border-bottom: 1px solid var(--line); }
.settings dt { color: var(--soft); }
.settings dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; max-width: 46rem; }
@media (min-width: 62rem) {
.d { left: auto; right: max(1.25rem, calc(50vw - 36.75rem)); top: 1.25rem; bottom: auto; width: 21.75rem; max-height: calc(100vh - 2.5rem); border: 1px solid var(--line); border-radius: .5rem; }
header, main, footer { margin-right: 23.25rem; }
}
@media (max-width: 40rem) { body { padding: .9rem .9rem 3rem; } .settings div { grid-template-columns: 7.5rem minmax(0, 1fr); } }`;
