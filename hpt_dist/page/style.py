"""How a page looks: on a phone, on a screen, printed, in light and dark; and its few scripts."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1d20; --soft: #5a6068; --paper: #fff; --tint: #f4f5f7;
  --line: #d8dbe0; --good: #0b7a4b; --bad: #b3261e; --neutral: #5a6068; --link: #0b57a4;
  --shade: #0004 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a4abb5; --paper: #15171a;
  --tint: #1e2125; --line: #383d44; --good: #4cc38a; --bad: #ff8a80; --neutral: #a4abb5;
  --link: #7db8ff; --shade: #fff4 } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: var(--ink);
  background: var(--paper) }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere }
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance }
h1 { font-size: 1.7rem; margin: 0 0 .5rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem }
h4 { font-size: .9rem; font-weight: 600; margin: 0 0 .25rem }
p, li { max-width: 46rem }
a { color: var(--link) }
ul { padding-left: 1.25rem }
.lead { font-size: 1.15rem; margin: 1rem 0 1.5rem; padding: .9rem 1.1rem; max-width: 52rem;
  background: var(--tint); border-left: .35rem solid var(--neutral); border-radius: .3rem }
.lead.good { border-color: var(--good) } .lead.good strong { color: var(--good) }
.lead.bad { border-color: var(--bad) } .lead.bad strong { color: var(--bad) }
/* A shadow at the right edge, which the paper covers once there is nothing more beyond it. */
.wide { overflow-x: auto; margin: 1rem 0; max-width: 100%; background:
  linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--shade), transparent) right / 1.1rem 100% no-repeat }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .94rem }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--line) }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper);
  padding-left: 0; min-width: 8.5rem; max-width: 45vw; overflow-wrap: break-word }
tbody tr:hover td { background: var(--tint) }
.number { text-align: right; white-space: nowrap }
th.number { white-space: normal }
.faint { color: var(--soft); font-style: italic }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit }
th button::after { content: " \\2195"; color: var(--soft); font-weight: 400 }
th[aria-sort="ascending"] button::after { content: " \\2191"; color: var(--ink) }
th[aria-sort="descending"] button::after { content: " \\2193"; color: var(--ink) }
img { max-width: 100% }
figure { margin: 1rem 0 }
figcaption { color: var(--soft); font-size: .88rem; max-width: 46rem; margin-top: .5rem }
.panels { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--px), 100%), 1fr)) }
.panels.alone { display: block; max-width: calc(1.6 * var(--px)); overflow-x: auto }
.panels svg { display: block; width: 100%; height: auto; overflow: visible }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0 0 .6rem;
  padding: 0; font-size: .9rem }
.keys svg { width: 1.5em; height: .8em; vertical-align: -.05em; overflow: visible }
pre { background: var(--tint); padding: .8rem 1rem; overflow-x: auto; border-radius: .3rem;
  font-size: .85rem; line-height: 1.45; overflow-wrap: normal }
details { margin: .75rem 0 } summary { cursor: pointer; color: var(--link) }
body:has(.sheet):not(:has(.lead)) main { max-width: none }
.sheet { display: grid; gap: 12px; margin: 1rem 0 1.5rem;
  grid-template-columns: repeat(auto-fill, var(--px)) }
.sheet figure { margin: 0; font-size: 12px; text-align: center }
.sheet img { width: 100%; aspect-ratio: 1; object-fit: scale-down; outline: 1px solid var(--line) }
.sheet figcaption { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; font-size: 12px;
  margin: 0 }
.sheet figcaption::first-line { color: var(--ink) }
@media (max-width: 40rem) { h1 { font-size: 1.4rem } .lead { font-size: 1.05rem }
  th, td { padding: .3rem .4rem } td:first-child, th:first-child { min-width: 5.5rem }
  table { font-size: .88rem } th:not([aria-sort]) button::after { content: "" } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --tint: #fff; --line: #999;
  --good: #064; --bad: #900; color-scheme: light } body { font-size: 10pt }
  main { max-width: none; padding: 0 }
  .wide, pre { overflow: visible } .wide { background: none } pre { white-space: pre-wrap }
  h2, h3, figcaption { break-after: avoid } figure, tr, .lead { break-inside: avoid }
  td:first-child, th:first-child { position: static } th button::after { content: "" } }
""".strip()

# A click on a column's head sorts by it, and what is folded is printed too.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => {
        const text = row.cells[column].textContent, number = parseFloat(text.replace(/,/g, ""));
        return head.classList.contains("number") ? (isNaN(number) ? -Infinity : number) : text;
      };
      const order = (a, b) => typeof a === "string"
        ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
      [...body.rows].sort((a, b) => (up ? 1 : -1) * order(value(a), value(b)))
        .forEach(row => body.append(row));
    };
  });
}
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
""".strip()
