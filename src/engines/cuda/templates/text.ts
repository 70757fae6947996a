/** Kernel templates as text: reading `kernels/*.cu`, putting constants, helpers and the epilogue in, and what comes out. */
import { readFileSync } from "node:fs";
import type { TensorMap } from "../plan.js";

/** What a kernel parameter wants bound, in the order of the kernel's parameters. */
export type KernelArgument =
  /** Address of an operand: "a" and "b" of products and convolutions; "q", "k", "v", "mask" and "out" of attention. */
  | { readonly kind: "operand"; readonly operand: string }
  /** A tensor map over an operand, by value. */
  | { readonly kind: "tensorMap"; readonly operand: string; readonly map: TensorMap }
  /** Scratch memory of this launch. `zero`: must hold zeros before the first launch; the kernel leaves it zero. */
  | { readonly kind: "scratch"; readonly bytes: number; readonly zero: boolean }
  /** The epilogue's own parameters stand here, in their order. */
  | { readonly kind: "epilogue" };

/** A complete translation unit and how to launch it. */
export interface KernelText {
  readonly name: string;
  /** Complete, self-contained CUDA C++ with one `extern "C"` kernel called `name`. */
  readonly source: string;
  /** The lowest architecture it compiles for: "sm_80", or "sm_90a" (Hopper alone). */
  readonly arch: "sm_80" | "sm_90a";
  readonly grid: readonly [number, number, number];
  readonly block: readonly [number, number, number];
  /** Dynamic shared memory, bytes. */
  readonly shared: number;
  readonly cluster?: readonly [number, number, number] | undefined;
  readonly arguments: readonly KernelArgument[];
}

/** What happens to a finished accumulator; written by the caller, called by the template. */
export interface EpilogueText {
  /** Device functions and types the body uses, at global scope. The template's own names are in `namespace tile`. */
  readonly prelude?: string | undefined;
  /** Extra kernel parameters, such as `const float* __restrict__ p0`, appended after the template's own. */
  readonly params: readonly string[];
  /**
   * Body of `void epilogue(const Acc (&acc)[V], int b, int m, int n, <params>)` for the V columns n, n + 1, ...; it applies what follows the
   * product and stores. m < M and n + V <= N hold, n is a multiple of V. Acc is int in INT8 kernels, float otherwise. Neighbouring lanes
   * take neighbouring columns.
   */
  body(V: number): string;
  /**
   * Reads that need not wait for the product, such as a residual: issued well ahead. `type(V)` is a C++ type that holds what V columns need, `body(V)` the
   * body of `type early_reads(int b, int m, int n, <params>)`. The epilogue then has `const Early& early` between acc and b.
   */
  readonly early?: { type(V: number): string; body(V: number): string } | undefined;
  /** Largest V the epilogue supports: 1, 2, 4, 8 or 16. */
  readonly vector: number;
  /** Set where the results are a plain matrix of one batch element, which may leave by tiles. */
  readonly tile?: TileStore | undefined;
}

/** A matrix of results in memory, row m and column n of it being those of the product. */
export interface TileStore {
  /** Bytes of a result: 1 or 2. */
  readonly bytes: 1 | 2;
  /** C type of a result. */
  readonly type: string;
  readonly dtype: TensorMap["dtype"];
  /** Elements from one row to the next. */
  readonly rowStride: number;
  /** The early read, when it is one matrix of as many bytes: operand "residual", the member `p0` of `Early`. */
  readonly residual?: { readonly dtype: TensorMap["dtype"]; readonly rowStride: number } | undefined;
  /** As the epilogue's body, but storing V results to `tile_out`, which is aligned to them. */
  body(V: number): string;
}

/** Values of a template's constants: numbers and booleans become `constexpr`, text stands as it is written. */
export type Constants = Readonly<Record<string, number | boolean>>;

const folder = new URL("../../../../kernels/", import.meta.url);
const files = new Map<string, string>();

/** A file of `kernels/`. */
export function templateText(file: string): string {
  let text = files.get(file);
  if (text === undefined) files.set(file, (text = readFileSync(new URL(file, folder), "utf8")));
  return text;
}

/** `constexpr` declarations: integers beyond 31 bits are `long long`. */
export function constantsText(constants: Constants): string {
  const of = (type: string, accept: (value: number | boolean) => boolean) => {
    const entries = Object.entries(constants).filter(([, value]) => accept(value));
    return entries.length === 0 ? [] : [`constexpr ${type} ${entries.map(([name, value]) => `${name} = ${value}`).join(", ")};`];
  };
  const wide = (v: number | boolean) => typeof v === "number" && Number.isInteger(v) && Math.abs(v) > 0x7fffffff;
  return [
    ...of("int", (v) => typeof v === "number" && Number.isInteger(v) && !wide(v)),
    ...of("long long", wide),
    ...of("bool", (v) => typeof v === "boolean"),
  ].join("\n");
}

/** The name a C parameter declares: the last identifier. */
export function parameterName(declaration: string): string {
  const match = /([A-Za-z_]\w*)\s*(?:\[\s*\w*\s*\])?\s*$/.exec(declaration);
  if (match?.[1] === undefined) throw new TypeError(`'${declaration}' declares no parameter name`);
  return match[1];
}

/** The largest vector the epilogue can take when columns come in runs of `columns`. */
export function epilogueVector(epilogue: EpilogueText, columns: number): 1 | 2 | 4 | 8 | 16 {
  for (const v of [16, 8, 4, 2] as const) if (v <= epilogue.vector && columns % v === 0) return v;
  return 1;
}

/** `epilogue` as device functions for vectors of `V` columns: `early_reads` and `epilogue` at global scope, `apply` and `Early` in `namespace tile`. */
export function epilogueFunction(epilogue: EpilogueText, V: number, accumulator: "float" | "int", tile?: TileStore): string {
  const { early, prelude } = epilogue;
  const params = epilogue.params;
  const more = tile === undefined ? [] : [`${tile.type}* __restrict__ tile_out`];
  const list = (parts: readonly string[]) => parts.map((part) => `, ${part}`).join("");
  const place = "int b, int m, int n";
  const names = list([...params, ...more].map(parameterName));
  const lines = prelude === undefined || prelude === "" ? [] : [prelude];
  lines.push(
    early === undefined ? "struct Early {};" : `using Early = ${early.type(V)};`,
    `__device__ __forceinline__ Early early_reads(${place}${list(params)}) {\n${early === undefined ? "  return {};" : early.body(V)}\n}`,
    `__device__ __forceinline__ void epilogue(const ${accumulator} (&acc)[${V}]${early === undefined ? "" : ", const Early& early"}, ${place}${list([...params, ...more])}) {\n${(tile ?? epilogue).body(V)}\n}`,
    `__device__ __forceinline__ void apply(const ${accumulator} (&acc)[${V}], const Early& early, ${place}${list([...params, ...more])}) {\n  epilogue(acc${early === undefined ? "" : ", early"}, b, m, n${names});\n}`,
  );
  return lines.join("\n");
}

interface Insertions {
  readonly name: string;
  /** Text for `//@constants`. */
  readonly constants: string;
  /** Text for `//@epilogue`. */
  readonly epilogue?: string;
  /** Text for `//@workspace`. */
  readonly workspace?: string;
  readonly scratchParams?: readonly string[];
  readonly epilogueParams?: readonly string[];
  /** More markers: `//@<name>` becomes the text. */
  readonly more?: Readonly<Record<string, string>>;
}

/** A template file with its markers replaced; `//@use file` brings in another file, once. */
export function instantiate(file: string, insert: Insertions): string {
  const used = new Set<string>();
  const expand = (name: string): string =>
    templateText(name)
      .trimEnd()
      .split("\n")
      .flatMap((line) => {
        const marker = /^\s*\/\/@(\w+)(?:\s+(\S+))?\s*$/.exec(line);
        if (marker === null) return [line];
        const [, kind = "", argument = ""] = marker;
        if (kind === "use") {
          if (used.has(argument)) return [];
          used.add(argument);
          return [expand(argument)];
        }
        if (kind === "constants") return [insert.constants];
        if (kind === "epilogue") return insert.epilogue === undefined ? [] : [insert.epilogue];
        if (kind === "workspace") return insert.workspace === undefined ? [] : [insert.workspace];
        const text = insert.more?.[kind];
        return text === undefined || text === "" ? [] : [text];
      })
      .join("\n");
  const list = (parts: readonly string[] | undefined) => (parts ?? []).map((part) => `, ${part}`).join("");
  const words: Record<string, string> = {
    KERNEL: insert.name,
    SCRATCH_PARAMETERS: list(insert.scratchParams),
    SCRATCH_ARGUMENTS: list(insert.scratchParams?.map(parameterName)),
    EPILOGUE_PARAMETERS: list(insert.epilogueParams),
    EPILOGUE_ARGUMENTS: list(insert.epilogueParams?.map(parameterName)),
  };
  const text = expand(file);
  return `${text
    .replace(/ ?\b(SCRATCH_PARAMETERS|SCRATCH_ARGUMENTS|EPILOGUE_PARAMETERS|EPILOGUE_ARGUMENTS)\b/g, (_, word: string) => words[word] ?? "")
    .replace(/\bKERNEL\b/g, insert.name)}\n`;
}
