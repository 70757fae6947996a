/** What a spelling is: how a node that no engine takes is written in parts, and the hand that writes them. */
import { intOf } from "../ir/attributes.js";
import type { Editor } from "../ir/edit.js";
import { int64Constant, makeConstant } from "../ir/payload.js";
import type { Attr, DType, Graph, Node, NodeId, ValueId, Verbatim } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import type { Draft, Replacement } from "./rewrite.js";

/** Whether a node stays as it is. `facts` knows the values the node reads and makes. */
export type Keep = (g: Graph, node: Node, facts: (v: ValueId) => Fact) => boolean;

/** Told of every node that is written for another one, which stays under its id as the last of its parts. */
export type OnPart = (part: NodeId, of: NodeId) => void;

/** Writes the nodes in front of the one that takes the raised node's place. */
export class Speller {
  readonly draft: Draft;
  readonly #node: Node;
  readonly #scalars: Map<string, ValueId>;
  readonly #onPart: OnPart | undefined;
  constructor(draft: Draft, node: Node, scalars: Map<string, ValueId>, onPart?: OnPart) {
    this.draft = draft;
    this.#node = node;
    this.#scalars = scalars;
    this.#onPart = onPart;
  }
  get #edit(): Editor {
    return this.draft.edit;
  }
  /** A node; its result takes the raised node's name and the operator's. */
  emit(op: string, ins: readonly (ValueId | undefined)[], attrs: Readonly<Record<string, Attr>> = {}, out?: ValueId): ValueId {
    const y = out ?? this.fresh(op);
    this.emitAll(op, ins, attrs, [y]);
    return y;
  }
  /** The same for several results. */
  emitAll(op: string, ins: readonly (ValueId | undefined)[], attrs: Readonly<Record<string, Attr>>, outs: readonly ValueId[]): void {
    const { id } = this.#edit.add({ op, ins, outs, attrs, name: `${this.#stem}/${op}`, origin: this.#node.origin ?? [this.#node.name] });
    this.#onPart?.(id, this.#node.id);
  }
  /** The parts of a value along an axis. */
  split(x: ValueId, sizes: readonly number[], axis: number): readonly ValueId[] {
    const parts = sizes.map((_, i) => this.fresh(`part${i}`));
    this.emitAll("Split", [x, this.ints(sizes)], { axis: { kind: "int", value: axis } }, parts);
    return parts;
  }
  /** A value named after the raised node. */
  fresh(suffix: string): ValueId {
    return this.#edit.declare(`${this.#stem}/${suffix}`);
  }
  /** Whether anybody reads a value. */
  used(v: ValueId | undefined): boolean {
    return v !== undefined && (this.#edit.isOutput(v) || this.#edit.uses(v).length > 0);
  }
  get #stem(): string {
    const { name, op, outs } = this.#node;
    const [first] = outs;
    return name !== "" ? name : first === undefined ? op : this.#edit.value(first).name;
  }
  scalar(dtype: DType, x: number): ValueId {
    const key = `${dtype} ${x}`;
    const known = this.#scalars.get(key);
    if (known !== undefined) return known;
    const v = this.#edit.addConstant(`lowered/${x}`, makeConstant(dtype as Exclude<DType, "string">, [], [x]));
    this.#scalars.set(key, v);
    return v;
  }
  ints(values: readonly number[]): ValueId {
    const key = `ints ${values.join()}`;
    const known = this.#scalars.get(key);
    if (known !== undefined) return known;
    const v = this.#edit.addConstant(`lowered/${values.join("x")}`, int64Constant(values));
    this.#scalars.set(key, v);
    return v;
  }
  /** A result shared by all nodes that ask with the same key. */
  once(key: string, make: () => ValueId): ValueId {
    const known = this.#scalars.get(key);
    if (known !== undefined) return known;
    const v = make();
    this.#scalars.set(key, v);
    return v;
  }
  float(name: string, fallback: number): number {
    const a = this.#node.attrs[name];
    return a?.kind === "float" ? a.value : fallback;
  }
  int(name: string, fallback: number): number {
    return intOf(this.#node, name, fallback);
  }
  dtype(v: ValueId | undefined): DType | undefined {
    if (v === undefined) return undefined;
    const t = this.draft.type(v);
    return t.kind === "tensor" ? t.dtype : undefined;
  }
}
/** `extra`, where the node that stays behind shall not have that of the old one. */
export type Spelling = (n: Node, s: Speller) => (Replacement & { readonly extra?: Verbatim | undefined }) | undefined;
