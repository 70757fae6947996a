/** The page's style: light and dark, screen and print. */
export const PAGE_STYLE = `
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5b6570;--line:#d5dae0;--panel:#f4f6f8;--host:#b7791f;--cuda:#2f855a;--tensorrt:#0b7285;--hit:#d6336c}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e8ec;--dim:#97a2ae;--line:#333a42;--panel:#1d2126;--host:#e0a95a;--cuda:#5fc992;--tensorrt:#4fc3d9;--hit:#ff6b9d}}
*{box-sizing:border-box}body{margin:0;font:15px/1.45 system-ui,sans-serif;background:var(--bg);color:var(--fg)}
header,section{padding:1rem 1.5rem}h1{margin:0;font-size:1.4rem}h2{font-size:1.1rem;margin:.2rem 0 .6rem}p{margin:.3rem 0;color:var(--dim)}
.figures{display:flex;flex-wrap:wrap;gap:.6rem;margin-top:.8rem}.figure{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.5rem .8rem}.figure b{display:block;font-size:1.2rem}.figure span{color:var(--dim);font-size:.85rem}
.tools{display:flex;gap:1rem;align-items:center;flex-wrap:wrap;margin-bottom:.5rem}input,select,button{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--line);border-radius:4px;padding:.2rem .5rem}
canvas{display:block;width:100%;height:420px;border:1px solid var(--line);border-radius:6px;background:var(--panel);touch-action:none}canvas:focus-visible{outline:2px solid var(--tensorrt)}
#detail{border:1px solid var(--line);border-top:0;padding:.6rem 1rem;min-height:4rem;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}th{position:sticky;top:0;background:var(--bg)}
td.host{color:var(--host)}td.cuda{color:var(--cuda)}td.tensorrt{color:var(--tensorrt)}tr.quiet{color:var(--dim)}
@media print{canvas,.tools,#detail{display:none}body{font-size:11px}th{position:static}}
`;
