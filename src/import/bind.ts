/** Inputs that are bound to values when a model is compiled: they become constants, so that what they decide is decided, and are inputs no more. */
import { defineError, didYouMean } from "../diagnostics.js";
import { type BindValue, type BoundInput, boundConstant, recorded } from "../ir/bound.js";
import { Editor } from "../ir/edit.js";
import { shapeOfType, valueAt } from "../ir/graph.js";
import type { Constant, Dim, Graph, ValueId, ValueType } from "../ir/types.js";

export const notAnInput = defineError<{ name: string; near: string | undefined; known: readonly string[]; computed: boolean }>(
  "P1009",
  "what is to be bound is no input",
  ({ name, near, known, computed }) => ({
    what: computed ? `'${name}' is computed by the graph, and is no input` : `there is no input '${name}'`,
    fix: computed
      ? "make it an input first (inputs, --inputs), or bind what it is computed from"
      : near !== undefined
        ? `did you mean '${near}'?`
        : known.length === 0
          ? "leave it out: the graph has no inputs"
          : `the inputs are ${known.join(", ")}`,
  }),
);
/** The values that inputs are bound to, by name. An importer that decides by values takes them while it reads; `apply` binds the others. */
export class Bindings {
  readonly #given: ReadonlyMap<string, BindValue>;
  readonly #shapes: Readonly<Record<string, readonly Dim[]>>;
  readonly #bound = new Map<string, Constant>();

  /** `shapes`: dims of inputs that the caller knows better than the model; "?" where not. */
  constructor(given: Readonly<Record<string, BindValue>>, shapes: Readonly<Record<string, readonly Dim[]>> = {}) {
    this.#given = new Map(Object.entries(given));
    this.#shapes = shapes;
  }

  get names(): readonly string[] {
    return [...this.#given.keys()];
  }
  /** What was bound, as reports keep it. */
  get bound(): Readonly<Record<string, BoundInput>> {
    return Object.fromEntries([...this.#bound].map(([said, c]) => [said, recorded(c)]));
  }
  has(name: string): boolean {
    return this.#given.has(name);
  }

  /** What an input is bound to that goes by these names; undefined where it stays an input. Throws P1010. */
  take(names: readonly string[], type: ValueType, file: string | undefined): Constant | undefined {
    const said = names.find((name) => this.#given.has(name));
    if (said === undefined) return undefined;
    const known = this.#shapes[said];
    const declared = shapeOfType(type);
    const shape = known?.map((d, i) => (d === "?" ? (declared?.[i] ?? d) : d)) ?? declared;
    const c = boundConstant(said, this.#given.get(said) as BindValue, type, shape, file);
    this.#bound.set(said, c);
    return c;
  }

  /** The graph with constants in the place of the inputs that are not taken yet. Throws P1009 for a name that is no input, P1010. */
  apply(g: Graph): Graph {
    const left = this.names.filter((name) => !this.#bound.has(name));
    if (left.length === 0) return g;
    const { file, overridable = [] } = g.extra ?? {};
    const named = (id: ValueId): string => valueAt(g, id).name;
    const byName = new Map(g.values.flatMap((v) => (v === undefined ? [] : [[v.name, v.id] as const])));
    const bindable = new Set([...g.inputs, ...overridable.flatMap((name) => byName.get(name) ?? [])]);
    const e = new Editor(g);
    const gone = new Set<ValueId>();
    for (const said of left) {
      const alias = g.extra?.aliases?.[said] ?? g.extra?.aliases?.[`${said}:0`];
      const id = byName.get(said) ?? byName.get(`${said}:0`) ?? (alias === undefined ? undefined : byName.get(alias));
      if (id === undefined || !bindable.has(id)) {
        const known = [...bindable].map(named);
        throw notAnInput({ name: said, near: didYouMean(said, known), known, computed: id !== undefined }, { file, value: said });
      }
      const c = this.take([said], valueAt(g, id).type, file);
      if (c === undefined) continue;
      gone.add(id);
      e.setConstant(id, c);
    }
    e.setInputs(g.inputs.filter((id) => !gone.has(id)));
    const graph = e.finish();
    const goneNames = new Set([...gone].map(named));
    return overridable.some((name) => goneNames.has(name))
      ? { ...graph, extra: { ...graph.extra, overridable: overridable.filter((name) => !goneNames.has(name)) } }
      : graph;
  }
}
