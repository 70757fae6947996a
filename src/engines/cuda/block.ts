/**
 * Straight-line C text under construction. Equal expressions get one variable; loads of neighbouring elements become one vector load when
 * the text is rendered, because only then is it known which neighbours were asked for.
 */
import { type Atom, type Index, linear, text } from "./indexing.js";
import type { Known, Low, Scope } from "./scope.js";
import { type Register, storage } from "./storage.js";
import type { View } from "./view.js";

/** How a kernel names the buffers it reads and writes: parameter names by view buffer. */
export interface Parameters {
  pointer(view: View): string;
}

interface Load {
  readonly pointer: string;
  readonly view: View;
  /** Address without its constant part, as text, and the largest power of two that divides every factor in it. */
  readonly base: string;
  readonly alignment: number;
  readonly offset: number;
  readonly address: Index;
  readonly guard: string | undefined;
  readonly name: string;
  /** Other lines depend on the loads of one group coming where the first stands. */
  readonly group: string;
}

/** A vector load that may be issued long before its value is needed. */
export interface EarlyRead {
  readonly type: string;
  readonly load: string;
  readonly view: View;
  /** Of its first element. */
  readonly address: Index;
  readonly width: number;
}

export class Block implements Scope {
  readonly #lines: (string | Load)[] = [];
  readonly #memo = new Map<string, string>();
  readonly #loads = new Map<string, Load[]>();
  readonly #parameters: Parameters;
  readonly #counter: { next: number };
  readonly #indent: string;
  readonly #outer: Block | undefined;
  #guard: string | undefined;
  #early: { readonly eligible: (view: View) => boolean; readonly known: ReadonlySet<string>; readonly packs: EarlyRead[] } | undefined;
  /** Values that are at hand in a register whatever the index: the result of the kernel's heavy operator, along its epilogue. */
  readonly overrides = new Map<number, string>();
  readonly numbers: Map<string, Known>;
  readonly lowBytes: Map<string, Low>;

  constructor(parameters: Parameters, indent = "  ", outer?: Block) {
    this.#parameters = parameters;
    this.#indent = indent;
    this.#outer = outer;
    this.#counter = outer === undefined ? { next: 0 } : outer.#counter;
    this.numbers = outer?.numbers ?? new Map();
    this.lowBytes = outer?.lowBytes ?? new Map();
    if (outer !== undefined) for (const [v, name] of outer.overrides) this.overrides.set(v, name);
  }

  /** A block inside this one (a loop's body); it sees the variables of this one. */
  inner(): Block {
    return new Block(this.#parameters, `${this.#indent}  `, this);
  }
  fresh(prefix: string): string {
    return `${prefix}${this.#counter.next++}`;
  }
  line(code: string): void {
    this.#lines.push(this.#indent + code);
  }
  /** A variable that holds an expression; plain names and literals stand for themselves. */
  let(type: Register | "bool", expression: string): string {
    if (/^-?[\w.]+$/.test(expression)) return expression;
    const key = `${type} ${expression}`;
    const known = this.#find(key);
    if (known !== undefined) return known;
    const name = this.fresh(type === "float" ? "f" : type === "bool" ? "c" : "n");
    this.line(`const ${type} ${name} = ${expression};`);
    this.#memo.set(key, name);
    return name;
  }
  #find(key: string): string | undefined {
    return this.#memo.get(key) ?? (this.#outer === undefined ? undefined : this.#outer.#find(key));
  }

  /** An index as text, its quotients and remainders named once. */
  index(x: Index): string {
    return text(x, (atom) => this.#atom(atom));
  }
  #atom(atom: Atom): string {
    if (atom.kind === "variable") return atom.key;
    const inner = this.index(atom.inner);
    const low = lowest(atom.inner);
    // C rounds quotients towards zero: the dividend is lifted above zero by a multiple of the divisor.
    const lift = low < 0 ? Math.ceil(-low / atom.by) : 0;
    const lifted = lift === 0 ? inner : `${inner} + ${lift * atom.by}`;
    const operand = /^\w+$/.test(lifted) ? lifted : `(${lifted})`;
    if (atom.kind === "mod") return this.let("int", `${operand} % ${atom.by}`);
    return this.let("int", lift === 0 ? `${operand} / ${atom.by}` : `${operand} / ${atom.by} - ${lift}`);
  }

  /** Evaluates `body` with loads that happen only where `condition` holds and give 0 elsewhere. */
  guarded<T>(condition: string, body: () => T): T {
    const before = this.#guard;
    this.#guard = before === undefined || before === condition ? condition : this.let("bool", `${before} && ${condition}`);
    try {
      return body();
    } finally {
      this.#guard = before;
    }
  }

  /** An element of a view, widened to its register type. */
  load(view: View, index: readonly Index[]): string {
    const address = linear(index, view.strides, view.offset);
    const base = this.index({ constant: 0, terms: address.terms });
    const pointer = this.#parameters.pointer(view);
    const group = `${pointer}[${base}] if ${this.#guard ?? ""}`;
    const key = `load ${group} ${address.constant}`;
    const known = this.#find(key);
    if (known !== undefined) return known;
    let alignment = 64;
    for (const t of address.terms) while (t.factor % alignment !== 0) alignment /= 2;
    const name = this.fresh(storage(view.dtype).register === "float" ? "f" : "n");
    const load: Load = { pointer, view, base, alignment, offset: address.constant, address, guard: this.#guard, name, group };
    const [first] = this.#loads.get(group) ?? [];
    if (first === undefined) this.#loads.set(group, [load]);
    else this.#loads.get(group)?.push(load);
    this.#lines.push(load);
    this.#memo.set(key, name);
    return name;
  }

  /**
   * Vector loads of eligible views whose address needs no more than these variables are left to whoever runs this text: it finds them as
   * members of `early`, in the order of the list that is returned once the block is rendered.
   */
  readEarly(eligible: (view: View) => boolean, variables: readonly string[]): readonly EarlyRead[] {
    this.#early = { eligible, known: new Set(variables), packs: [] };
    return this.#early.packs;
  }

  /** The lines, with loads of neighbours joined. */
  render(): readonly string[] {
    const out: string[] = [];
    const packs = new Map<string, string>();
    const bytesOfPacks = new Map<string, { readonly at: number; readonly word: string }>();
    const unpacked = (line: string): string =>
      line.replace(/\b(byte_to_float|byte_times)\((\w+)/g, (whole, name: string, byte: string) => {
        const lane = bytesOfPacks.get(byte);
        return lane === undefined ? whole : `${name}<${lane.at}>(${lane.word}`;
      });
    for (const l of this.#lines) {
      if (typeof l === "string") {
        out.push(unpacked(l));
        continue;
      }
      const { type, bytes, register, widen } = storage(l.view.dtype);
      const width = this.#width(l, bytes);
      const at = (offset: number): string => (l.base === "0" ? String(offset) : offset === 0 ? l.base : `${l.base} + ${offset}`);
      if (width === 1) {
        const element = widen(`${l.pointer}[${at(l.offset)}]`);
        out.push(`${this.#indent}const ${register} ${l.name} = ${l.guard === undefined ? element : `${l.guard} ? ${element} : 0`};`);
        continue;
      }
      const start = Math.floor(l.offset / width) * width;
      const key = `${l.group} ${start} ${width}`;
      // Bytes stay in their words until they are used.
      const words = l.view.dtype === "int8" && width % 4 === 0;
      const packType = words ? `Pack<u32, ${width / 4}>` : `Pack<${type}, ${width}>`;
      const known = packs.get(key);
      const pack = known ?? this.fresh("v");
      const lane = l.offset - start;
      if (words) bytesOfPacks.set(l.name, { at: lane % 4, word: `${pack}.e[${Math.floor(lane / 4)}]` });
      const element = words ? `(signed char)(${pack}.e[${Math.floor(lane / 4)}] >> ${8 * (lane % 4)})` : widen(`${pack}.e[${lane}]`);
      if (known === undefined) {
        packs.set(key, pack);
        const address = `${l.pointer} + ${at(start)}`;
        const whole = words
          ? `load_pack<u32, ${width / 4}>(reinterpret_cast<const u32*>(${address}))`
          : `load_pack<${type}, ${width}>(${address})`;
        const early = this.#early;
        if (
          early !== undefined &&
          l.guard === undefined &&
          early.eligible(l.view) &&
          (l.base.match(/[A-Za-z_]\w*/g) ?? []).every((n) => early.known.has(n))
        ) {
          out.push(`${this.#indent}const ${packType} ${pack} = early.p${early.packs.length};`);
          early.packs.push({ type: packType, load: whole, view: l.view, address: { ...l.address, constant: start }, width });
        } else
          out.push(
            l.guard === undefined
              ? `${this.#indent}const ${packType} ${pack} = ${whole};`
              : `${this.#indent}${packType} ${pack} = {}; if (${l.guard}) ${pack} = ${whole};`,
          );
      }
      out.push(`${this.#indent}const ${register} ${l.name} = ${element};`);
    }
    return out;
  }

  /** The widest aligned pack that at least half uses: 1 when the neighbours are not asked for. */
  #width(l: Load, bytes: number): number {
    const wanted = new Set((this.#loads.get(l.group) ?? []).map((x) => x.offset));
    for (let width = Math.min(16 / bytes, l.alignment); width > 1; width /= 2) {
      const start = Math.floor(l.offset / width) * width;
      let used = 0;
      for (let i = 0; i < width; i++) if (wanted.has(start + i)) used++;
      // A pack never reads past what is asked for: the elements behind may not exist.
      if (used === width) return width;
    }
    return 1;
  }
}

function lowest(x: Index): number {
  return x.terms.reduce((low, t) => low + t.factor * (t.factor > 0 ? t.atom.min : t.atom.max), x.constant);
}
