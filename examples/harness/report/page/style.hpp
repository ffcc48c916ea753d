// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// The style sheet of all pages.
namespace catmerge::harness::page {

/// Light and dark by the reader's setting, always light on paper. The colours of series are those
/// of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers tell apart, made
/// darker or lighter for a contrast of 3 to 1 with the page. Shapes tell series apart as well.
inline constexpr const char* style = R"css(
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f5f7f9; --ink: #1a2027; --dim: #5a6570; --rule: #d5dbe1;
  --accent: #0a5ea8; --warm: #b4490b; --warn: #fff4e0; --warn-rule: #d9902f;
  --hot: #08519c; --on: #ffffff; --half: var(--ink); --cold: #b4490b; --before: #77828d; --tint: 8, 81, 156;
  --s0: #0068a5; --s1: #c94f00; --s2: #00805c; --s3: #b14c8e;
  --s4: #8f6a00; --s5: #2a89bd; --s6: #3c434a; --s7: #7a4b2b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181c; --panel: #1d2328; --ink: #e7eaed; --dim: #a2acb6; --rule: #39424a;
    --accent: #74b9f2; --warm: #f29a5c; --warn: #33280f; --warn-rule: #c98a2e;
    --hot: #8ccbff; --on: #0c1a26; --half: var(--on); --cold: #f29a5c; --before: #8b96a1; --tint: 110, 185, 245;
    --s0: #57aee8; --s1: #ff8b45; --s2: #35c497; --s3: #e39bc7;
    --s4: #e0b034; --s5: #9ed6f7; --s6: #d3d8dc; --s7: #cf9c76;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink); line-height: 1.5; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere;
}
main { max-width: 1136px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 8px; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 48px 0 8px; padding-top: 16px; border-top: 1px solid var(--rule); }
h2.plain { font-size: 1rem; margin: 16px 0 0; padding: 0; border: 0; }
h3 { font-size: 1rem; margin: 24px 0 4px; }
p { margin: 8px 0; max-width: 74ch; }
.lead { font-size: 1.125rem; margin: 20px 0; }
.small { font-size: .8125rem; color: var(--dim); }
a { color: var(--accent); }
nav { margin: 16px 0 0; font-size: .875rem; line-height: 2; }
nav a { margin-right: 16px; display: inline-block; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(152px, 1fr)); gap: 12px 24px; margin: 20px 0; }
.facts div { min-width: 0; }
.facts dt { font-size: .75rem; color: var(--dim); margin: 0; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.tasks { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; padding: 0; margin: 12px 0; }
.tasks li { background: var(--panel); border: 1px solid var(--rule); border-radius: 4px; padding: 1px 8px; font-size: .875rem; max-width: 100%; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-rule); padding: 8px 16px; margin: 20px 0; }
.notes { background: var(--panel); border-color: var(--rule); }
.warnings h2 { border: 0; margin: 0; padding: 4px 0; font-size: 1rem; }
.warnings ul { margin: 4px 0 8px; padding-left: 20px; }
.warnings li { margin: 4px 0; }
.notation { background: var(--panel); padding: 8px 16px; margin: 16px 0; font-size: .9375rem; }
.notation p { max-width: none; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 352px), 1fr)); gap: 24px 16px; margin: 16px 0; align-items: start; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(168px, 1fr)); gap: 16px; margin: 16px 0; align-items: end; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr); gap: 8px 32px; margin: 16px 0; align-items: start; }
@media (min-width: 960px) { .beside { grid-template-columns: 352px minmax(0, 1fr); } }
.beside > div > :first-child { margin-top: 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .8125rem; line-height: 1.45; color: var(--dim); margin-top: 6px; max-width: 60ch; }
.name { font-size: .875rem; font-weight: 600; margin: 0 0 6px; }
.panels .name { font-size: .75rem; line-height: 1.35; }
.panels .name span { font-weight: 400; color: var(--dim); display: block; }
.key { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .8125rem; margin: 8px 0; padding: 0; list-style: none; align-items: center; }
.key li { display: inline-flex; align-items: center; gap: 6px; min-width: 0; }
.key svg { flex: none; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--ink); }
svg .mid { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .dim { fill: var(--dim); }
svg .number { font-variant-numeric: tabular-nums; }
svg .on { fill: var(--on); }
svg .half { fill: var(--half); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .zero { stroke: var(--dim); stroke-width: 1; }
svg .reference { stroke: var(--warm); stroke-width: 1.25; stroke-dasharray: 3 3; }
svg .joint { stroke: var(--before); stroke-width: 2; }
svg .hot, svg .gone { fill: var(--hot); }
svg .cold { fill: var(--cold); }
svg .kept { fill: var(--before); }
svg .none { fill: none; stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; }
svg .whisker { stroke-width: 1.5; }
svg .mark { stroke-width: 1; }
svg .before { stroke: var(--before); fill: var(--page); }
svg .line.before { stroke-dasharray: 4 3; fill: none; }
svg .mark.before { stroke-width: 1.5; }
svg .after { stroke: var(--accent); fill: var(--accent); }
svg .line.after { fill: none; }
svg .s0 { stroke: var(--s0); fill: var(--s0); } svg .s1 { stroke: var(--s1); fill: var(--s1); }
svg .s2 { stroke: var(--s2); fill: var(--s2); } svg .s3 { stroke: var(--s3); fill: var(--s3); }
svg .s4 { stroke: var(--s4); fill: var(--s4); } svg .s5 { stroke: var(--s5); fill: var(--s5); }
svg .s6 { stroke: var(--s6); fill: var(--s6); } svg .s7 { stroke: var(--s7); fill: var(--s7); }
svg .line.s0, svg .line.s1, svg .line.s2, svg .line.s3, svg .line.s4, svg .line.s5, svg .line.s6, svg .line.s7 { fill: none; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.4; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 5px 8px; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child, th.wrap, td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 150px; max-width: 330px; }
th.wrap, td.wrap { text-align: left; }
thead th { color: var(--dim); font-weight: 500; vertical-align: bottom; white-space: normal; overflow-wrap: break-word; max-width: 130px; }
tbody th { font-weight: 500; }
td small { color: var(--dim); font-size: .9em; }
details { margin: 12px 0; }
summary { cursor: pointer; color: var(--accent); font-size: .9375rem; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9em; }
footer { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--rule); color: var(--dim); font-size: .8125rem; }
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --panel: #f5f7f9; --ink: #000000; --dim: #444c54; --rule: #c5ccd3;
    --accent: #0a5ea8; --warm: #b4490b; --warn: #ffffff; --warn-rule: #b4490b;
    --hot: #08519c; --on: #ffffff; --half: var(--ink); --cold: #b4490b; --before: #77828d; --tint: 8, 81, 156;
    --s0: #0068a5; --s1: #c94f00; --s2: #00805c; --s3: #b14c8e;
    --s4: #8f6a00; --s5: #2a89bd; --s6: #3c434a; --s7: #7a4b2b;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  figure, tr, .warnings, .notation, .facts div { break-inside: avoid; }
  h2, h3, .name, .key { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 2px 5px; white-space: normal; }
}
)css";

}  // namespace catmerge::harness::page
