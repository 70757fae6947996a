/**
 * The texts of a model, numbered by their bytes in the order of their first appearance; 0 is the empty one. A name that comes again is found
 * without a string being made of it, and what is keyed by names can be an array.
 */

/** The number of a text in its model's `Names`. */
export type NameId = number;

const HIGH_BITS = 0x80808080 | 0;

/** An open-addressing table over the places where texts first stand in `bytes`, probed linearly. */
export class Names {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  /** Hash and number by turns: a probe that misses touches nothing else. */
  #slots = new Int32Array(1 << 13);
  readonly #texts: string[] = [""];
  readonly #starts: number[] = [0];
  readonly #lengths: number[] = [0];
  /** Where hashes begin, another for every model: a file cannot hold names that are made to meet in one slot. Numbers do not depend on it. */
  readonly #seed = Math.trunc(Math.random() * 2 ** 32) | 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** How many there are. */
  get count(): number {
    return this.#texts.length;
  }
  text(id: NameId): string {
    const s = this.#texts[id];
    if (s === undefined) throw new Error(`no name has the number ${id}`);
    return s;
  }

  /** The number of the text in the `n` bytes from `start`. Throws a TypeError when they are not UTF-8. */
  idOf(start: number, n: number): NameId {
    if (n === 0) return 0;
    const view = this.#view;
    const [end, whole] = [start + n, start + n - 3];
    let hash = this.#seed ^ n;
    let high = 0;
    let at = start;
    for (; at < whole; at += 4) {
      const word = view.getInt32(at, true);
      high |= word;
      hash = Math.imul(hash ^ word, 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    for (; at < end; at++) {
      const byte = this.#bytes[at] as number;
      high |= byte;
      hash = Math.imul(hash ^ byte, 0x01000193);
    }
    hash ^= hash >>> 13;
    const slots = this.#slots;
    const mask = slots.length - 2;
    for (let slot = (hash << 1) & mask; ; slot = (slot + 2) & mask) {
      const id = slots[slot + 1] as number;
      if (id === 0) return this.#add(start, n, hash, slot, (high & HIGH_BITS) === 0);
      if (slots[slot] === hash && this.#same(id, start, n)) return id;
    }
  }

  #same(id: NameId, start: number, n: number): boolean {
    if (this.#lengths[id] !== n) return false;
    const known = this.#starts[id] as number;
    const view = this.#view;
    let i = 0;
    for (; i + 4 <= n; i += 4) if (view.getInt32(known + i, true) !== view.getInt32(start + i, true)) return false;
    for (; i < n; i++) if (this.#bytes[known + i] !== this.#bytes[start + i]) return false;
    return true;
  }

  #add(start: number, n: number, hash: number, slot: number, ascii: boolean): NameId {
    const bytes = this.#bytes;
    const s = ascii ? Buffer.prototype.latin1Slice.call(bytes, start, start + n) : this.#utf8.decode(bytes.subarray(start, start + n));
    const id = this.#texts.length;
    this.#texts.push(s);
    this.#starts.push(start);
    this.#lengths.push(n);
    this.#slots[slot] = hash;
    this.#slots[slot + 1] = id;
    if (id * 4 > this.#slots.length) this.#grow();
    return id;
  }

  #grow(): void {
    const old = this.#slots;
    const slots = new Int32Array(old.length * 2);
    const mask = slots.length - 2;
    for (let i = 0; i < old.length; i += 2) {
      const [hash, id] = [old[i] as number, old[i + 1] as number];
      if (id === 0) continue;
      let slot = (hash << 1) & mask;
      while (slots[slot + 1] !== 0) slot = (slot + 2) & mask;
      slots[slot] = hash;
      slots[slot + 1] = id;
    }
    this.#slots = slots;
  }
}

/** What is known of names, as an array: for a graph that binds most of its model's names. */
export class NameTable<T extends number> {
  #values = new Int32Array(1 << 10);

  has(name: NameId): boolean {
    return (this.#values[name] ?? 0) !== 0;
  }
  get(name: NameId): T | undefined {
    const v = this.#values[name] ?? 0;
    return v <= 0 ? undefined : ((v - 1) as T);
  }
  /** `undefined` binds a name to nothing. */
  set(name: NameId, value: T | undefined): void {
    if (name >= this.#values.length) {
      const grown = new Int32Array(Math.max(this.#values.length * 2, name + 1));
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[name] = value === undefined ? -1 : value + 1;
  }
  *keys(): Iterable<NameId> {
    for (let name = 0; name < this.#values.length; name++) if (this.#values[name] !== 0) yield name;
  }
}
