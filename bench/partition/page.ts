/** Writes the measured part of docs/partitioning.md, between its markers, and the plot beside it. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Bounds } from "./bounds.js";
import type { Figures } from "./measure.js";
import type { ModelRow, Results, Row } from "./results.js";

const BEGIN = "<!-- measured: written by `npm run bench:partition` -->";
const END = "<!-- end of measured -->";
const OURS = "Partita";

export function writeDocs(docs: string, r: Results): void {
  mkdirSync(join(docs, "images"), { recursive: true });
  writeFileSync(join(docs, "images/partition.svg"), plot(r));
  const path = join(docs, "partitioning.md");
  const text = existsSync(path) ? readFileSync(path, "utf8") : `# Partitioning\n\n${BEGIN}\n${END}\n`;
  const [a, b] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (a < 0 || b < a) throw new Error(`${path} lacks its markers`);
  writeFileSync(path, `${text.slice(0, a + BEGIN.length)}\n\n${measured(r)}\n${text.slice(b)}`);
}

const number = (x: number): string => x.toLocaleString("en-US", { maximumFractionDigits: x < 10 ? 2 : x < 100 ? 1 : 0 });
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [
    `| ${head.join(" | ")} |`,
    `|${head.map((_, i) => (i === 0 ? "---" : "---:")).join("|")}|`,
    ...rows.map((c) => `| ${c.join(" | ")} |`),
  ].join("\n");

function measured(r: Results): string {
  const sizes = [...new Set(r.graphs.map((g) => Math.round(g.nodes / 10_000) * 10_000))].sort((a, b) => a - b);
  const largest = sizes[sizes.length - 1] ?? 0;
  const at = (g: Row, size: number): boolean => Math.abs(g.nodes - size) < size * 0.1;
  const shapes = [...new Set(r.graphs.map((g) => g.graph))];
  const parts: string[] = [];
  parts.push(
    `Machine: ${r.machine.cpu}, ${r.machine.cores} cores, ${r.machine.memoryGb} GB, Node ${r.machine.node}, one thread; other work ran beside it, so times are the least processor time of up to 20 runs. One node in ten unsupported, at random; minimum size ${r.settings.minimumSize}. "Boundary" counts each tensor once that an engine segment exchanges with anything else.`,
  );
  for (const size of [largest, sizes[0] ?? 0].filter((s, i, all) => all.indexOf(s) === i))
    parts.push(
      `### ${number(size)} nodes\n\n${table(
        ["graph and method", "engine segments", "lower bound", "boundary tensors", "boundary GB", "nodes covered", "CPU ms", "peak MB"],
        shapes.flatMap((shape) =>
          r.graphs
            .filter((g) => g.graph === shape && at(g, size))
            .map((g) => [
              g.method === OURS ? `**${shape}: ${g.method}**` : `${shape}: ${g.method}`,
              number(g.segments),
              g.lowerBound === undefined ? "" : number(g.lowerBound),
              number(g.cutTensors),
              number(g.boundaryBytes / 1e9),
              `${((100 * g.covered) / g.nodes).toFixed(1)} %`,
              number(g.cpuMs),
              number(g.peakMb),
            ]),
        ),
      )}`,
    );
  parts.push(
    `### Growth\n\nProcessor time at each size, and the largest against the smallest per node (1 is linear). The hub graph is the inception graph with one more node that feeds every other.\n\n${table(
      ["graph", ...sizes.map((s) => `${number(s)} nodes, ms`), "growth over linear"],
      shapes.map((shape) => {
        const rows = sizes.map((s) => r.graphs.find((g) => g.graph === shape && g.method === OURS && at(g, s)));
        const [first, last] = [rows[0], rows[rows.length - 1]];
        return [
          shape,
          ...rows.map((g) => (g === undefined ? "" : number(g.cpuMs))),
          first === undefined || last === undefined ? "" : number(last.cpuMs / first.cpuMs / (last.nodes / first.nodes)),
        ];
      }),
    )}\n\n![Time by size](images/partition.svg)`,
  );
  if (r.unfinished.length > 0)
    parts.push(
      `Stopped after two and a half minutes: ${r.unfinished.map((u) => `${u.method} on ${u.graph}, ${number(u.nodes)} nodes`).join("; ")}.`,
    );
  if (r.models.length > 0) parts.push(models(r));
  return `${parts.join("\n\n")}\n`;
}

/** Smaller is better, but for the covered work. */
const criteria = {
  segments: (f: Figures) => f.segments,
  "boundary bytes": (f: Figures) => f.boundaryBytes,
  "FLOPs left out": (f: Figures) => Math.round((1 - f.workCovered) * 1e9),
  crossings: (f: Figures) => f.crossings,
} as const;

function models(r: Results): string {
  const own = r.models.filter((m) => !m.verdicts.includes("refused"));
  const harder = r.models.filter((m) => m.verdicts.includes("refused"));
  const count = new Set(r.models.map((m) => m.model)).size;
  return `### Models

${count} models with the verdicts of the CUDA and of the TensorRT tables: ${own.length} cases. "Crossings" are the changes of side on the longest path through the segments.

${comparison(own)}

The same with one node in ten refused besides, at random: ${harder.length} cases.

${comparison(harder)}
${r.unread.length === 0 ? "" : `\nNot read: ${r.unread.length} (in bench/results/partition.json with the reason).\n`}`;
}

function comparison(rows: readonly ModelRow[]): string {
  const names = Object.keys(rows[0]?.methods ?? {}).filter((m) => m !== OURS);
  const of = (m: ModelRow, name: string): Figures => m.methods[name] as Figures;
  const sum = (name: string, f: (x: Figures) => number): number => rows.reduce((t, m) => t + f(of(m, name)), 0);
  const counts = (name: string): readonly string[] =>
    Object.values(criteria).map((criterion) => {
      let [better, same, worse] = [0, 0, 0];
      for (const m of rows) {
        const [ours, theirs] = [criterion(of(m, OURS)), criterion(of(m, name))];
        if (ours < theirs) better++;
        else if (ours === theirs) same++;
        else worse++;
      }
      return `${better} / ${same} / ${worse}`;
    });
  const beaten = rows.flatMap((m) =>
    names.filter((name) => {
      const pairs = Object.values(criteria).map((criterion) => [criterion(of(m, OURS)), criterion(of(m, name))] as const);
      return pairs.every(([ours, theirs]) => theirs <= ours) && pairs.some(([ours, theirs]) => theirs < ours);
    }),
  ).length;
  const worse = exceptions(rows, names);
  const at = (f: (x: Figures | Bounds) => number): string => String(rows.filter((m) => f(of(m, OURS)) === f(m.least)).length);
  const cells = (name: string): readonly string[] => [
    number(sum(name, (f) => f.segments)),
    number(sum(name, (f) => f.boundaryBytes) / 1e6),
    `${((100 * sum(name, (f) => f.workCovered)) / rows.length).toFixed(3)} %`,
    number(sum(name, (f) => f.crossings)),
  ];
  return `Sums over the cases (FLOPs covered: mean):

${table(
  ["method", "segments", "boundary MB", "FLOPs covered", "crossings"],
  [OURS, ...names].map((name) => [name, ...cells(name)]),
)}

Cases in which Partita is better / the same / worse:

${table(
  ["against", ...Object.keys(criteria)],
  names.map((name) => [name, ...counts(name)]),
)}

Of any partition that keeps the same work on the engine (\`bench/partition/bounds.ts\`: longest alternations and a minimum cut), Partita's has the least segments in ${at((x) => x.segments)} of the ${rows.length} cases, the least crossings in ${at((x) => x.crossings)}, the least bytes in ${at((x) => x.boundaryBytes)}; that is where the bound is met, and a bound may lie below what is possible.

${beaten === 0 ? "No method is as good on every criterion and better on one in any case." : `In ${beaten} of ${rows.length * names.length} comparisons a method is as good on every criterion and better on one.`}${
  worse.length === 0
    ? " No criterion is worse in any case."
    : ` All cases in which a method is better on some criterion (Partita : the other, in bold where it is better); what it pays stands in the same row. "Proven" says that whoever covers what Partita covers cannot have the bold figures:\n\n${table(["model (verdicts)", "against", "segments", "boundary kB", "FLOPs covered", "crossings", "proven"], worse)}`
}`;
}

/** Cases in which some method is better in something: both sides' figures, theirs in bold where they are better. Equal rows are joined. */
function exceptions(rows: readonly ModelRow[], names: readonly string[]): readonly (readonly string[])[] {
  const show: readonly ((f: Figures) => string)[] = [
    (f) => String(f.segments),
    (f) => number(f.boundaryBytes / 1e3),
    (f) => `${(100 * f.workCovered).toFixed(3)} %`,
    (f) => String(f.crossings),
  ];
  const lines = new Map<
    string,
    { readonly models: Map<string, Set<string>>; readonly methods: Set<string>; readonly cells: readonly string[] }
  >();
  for (const m of rows) {
    const ours = m.methods[OURS] as Figures;
    for (const name of names) {
      const theirs = m.methods[name] as Figures;
      const better = Object.values(criteria).map((of) => of(theirs) < of(ours));
      if (!better.includes(true)) continue;
      const bounded = (["segments", "boundaryBytes", "crossings"] as const).filter((key) => theirs[key] < ours[key]);
      const proven = bounded.length > 0 && bounded.every((key) => theirs[key] < m.least[key]);
      const cells = show.map((f, i) => {
        const [a, b] = [f(ours), f(theirs)];
        return better[i] === true ? `${a} : **${b}**` : a === b ? a : `${a} : ${b}`;
      });
      cells.push(proven ? "yes" : "");
      const key = `${m.model.split("/")[0]} ${cells.join()}`;
      const line = lines.get(key) ?? { models: new Map<string, Set<string>>(), methods: new Set<string>(), cells };
      lines.set(key, line);
      const verdicts = line.models.get(m.model) ?? new Set<string>();
      line.models.set(m.model, verdicts.add(m.verdicts.split(",")[0] ?? ""));
      line.methods.add(name.replace(/ \(.*/, "").replace("ONNX Runtime waves", "waves").replace("ONNX Runtime TensorRT", "intervals"));
    }
  }
  return [...lines.values()].map(({ models, methods, cells }) => [
    [...models].map(([model, verdicts]) => `${model} (${[...verdicts].join(", ")})`).join(", "),
    [...methods].join(", "),
    ...cells,
  ]);
}

/** Time over nodes, both logarithmic, on the inception graph: one line per method. */
function plot(r: Results): string {
  const [W, H, L, T, R, B] = [760, 420, 70, 20, 250, 50];
  const rows = r.graphs.filter((g) => g.graph === "inception");
  const methods = [...new Set(rows.map((g) => g.method))];
  const colors = ["#2f855a", "#b7791f", "#0b7285", "#862e9c", "#c92a2a", "#5c6770"];
  const low = Math.floor(Math.log10(Math.min(...rows.map((g) => g.cpuMs))));
  const high = Math.ceil(Math.log10(Math.max(...rows.map((g) => g.cpuMs))));
  const x = (n: number): number => L + ((Math.log10(n) - 4) / 2) * (W - L - R);
  const y = (ms: number): number => H - B - ((Math.log10(ms) - low) / (high - low)) * (H - T - B);
  const parts: string[] = [];
  for (let e = low; e <= high; e++)
    parts.push(
      `<line x1="${L}" x2="${W - R}" y1="${y(10 ** e)}" y2="${y(10 ** e)}" stroke="#8884"/><text x="${L - 8}" y="${y(10 ** e) + 4}" text-anchor="end">${10 ** e} ms</text>`,
    );
  for (const n of [10_000, 100_000, 1_000_000])
    parts.push(`<text x="${x(n)}" y="${H - B + 20}" text-anchor="middle">${n.toLocaleString("en-US")}</text>`);
  parts.push(`<text x="${(L + W - R) / 2}" y="${H - 8}" text-anchor="middle">nodes (inception-like)</text>`);
  methods.forEach((m, i) => {
    const points = rows.filter((g) => g.method === m);
    const color = colors[i % colors.length];
    const line = points.map((g) => `${x(g.nodes).toFixed(1)},${y(g.cpuMs).toFixed(1)}`).join(" ");
    parts.push(`<polyline points="${line}" fill="none" stroke="${color}" stroke-width="${m === OURS ? 3 : 1.5}"/>`);
    for (const g of points) parts.push(`<circle cx="${x(g.nodes).toFixed(1)}" cy="${y(g.cpuMs).toFixed(1)}" r="3" fill="${color}"/>`);
    parts.push(
      `<rect x="${W - R + 16}" y="${T + 22 * i}" width="12" height="12" fill="${color}"/><text x="${W - R + 34}" y="${T + 11 + 22 * i}">${m}</text>`,
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${W} ${H}" font-family="system-ui,sans-serif" font-size="12" fill="#5c6770" role="img"><title>Time of partitioning by number of nodes</title>${parts.join("")}</svg>\n`;
}
