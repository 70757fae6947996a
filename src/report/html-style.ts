/** The page's style: light and dark, screen and print. Long tables are laid out when they are reached. */
export const PAGE_STYLE = `
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5b6570;--line:#d5dae0;--panel:#f4f6f8;--host:#b7791f;--cuda:#2f855a;--tensorrt:#0b7285;--hit:#d6336c;--edge:#b3bcc6}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e8ec;--dim:#97a2ae;--line:#333a42;--panel:#1d2126;--host:#e0a95a;--cuda:#5fc992;--tensorrt:#4fc3d9;--hit:#ff6b9d;--edge:#4a535d}}
*{box-sizing:border-box}body{margin:0;font:15px/1.45 system-ui,sans-serif;background:var(--bg);color:var(--fg)}
header,section{padding:1rem 1.5rem}.lazy{content-visibility:auto;contain-intrinsic-size:auto 2000px}
h1{margin:0;font-size:1.4rem}h2{font-size:1.1rem;margin:.2rem 0 .6rem}h3{font-size:1rem;margin:.2rem 0}h4{font-size:.9rem;margin:.6rem 0 .2rem}p{margin:.3rem 0;color:var(--dim);overflow-wrap:anywhere}
.figures{display:flex;flex-wrap:wrap;gap:.6rem;margin-top:.8rem}.figure{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.5rem .8rem}.figure b{display:block;font-size:1.2rem}.figure span{color:var(--dim);font-size:.85rem}
.tools{display:flex;gap:1rem;align-items:center;flex-wrap:wrap;margin-bottom:.5rem}input,select,button{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--line);border-radius:4px;padding:.2rem .5rem}button{cursor:pointer}
:focus-visible{outline:2px solid var(--tensorrt);outline-offset:1px}
.map{display:grid;grid-template-columns:minmax(0,1fr) 24rem;gap:1rem;height:min(70vh,640px)}@media (max-width:900px){.map{grid-template-columns:1fr;height:auto}.side{height:20rem}section{overflow-x:auto}.chart{max-width:none}header,section{padding:1rem}}
canvas{display:block;width:100%;height:100%;min-height:320px;border:1px solid var(--line);border-radius:6px;background:var(--panel);touch-action:none;cursor:grab}
.side{overflow:auto;contain:strict;border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;overflow-wrap:anywhere;font-size:.9rem}
.side td.text{min-width:0}#results{max-height:9.5rem;overflow:auto}.side ul{list-style:none;margin:0;padding:0}.side li button,.buttons button{display:block;width:100%;text-align:left;border:0;background:none;padding:.1rem .2rem;color:var(--tensorrt)}.reason b{color:var(--fg)}
dl{display:grid;grid-template-columns:minmax(4rem,auto) minmax(60%,1fr);gap:.15rem .7rem;margin:.3rem 0}dt{color:var(--dim)}dd{margin:0}pre{overflow:auto;max-height:24rem;background:var(--panel);padding:.6rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin-bottom:.8rem}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}td{white-space:nowrap}td.text{white-space:normal;overflow-wrap:anywhere;min-width:13rem}th{position:sticky;top:0;background:var(--bg)}
.wide{overflow-x:auto}td.host{color:var(--host)}td.cuda{color:var(--cuda)}td.tensorrt{color:var(--tensorrt)}tr.quiet{color:var(--dim)}
.chart{max-width:100%;height:auto;font-size:12px}.chart text{fill:var(--fg)}.chart .bar,.chart .area{fill:var(--tensorrt);opacity:.8}.chart .host{fill:var(--host)}.chart .cuda{fill:var(--cuda)}.chart .tensorrt{fill:var(--tensorrt)}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:1rem;background:var(--bg);padding:.5rem}
@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--panel:#fff;--host:#b7791f;--cuda:#2f855a;--tensorrt:#0b7285;--edge:#b3bcc6}html{font-size:11px}.tools,.side,.more,.skip{display:none}.map{display:block;height:10cm}.lazy{content-visibility:visible}body{font-size:1rem}th{position:static}td.text{min-width:6rem}.wide{overflow:visible}.wide table{font-size:.75rem}th,td{padding:.15rem .3rem}tr,svg{break-inside:avoid}}
`;
