/** A scope that writes nothing: it says whether a value is a plain load, and of what. */
import type { Index } from "./indexing.js";
import type { Known, Low, Scope } from "./scope.js";
import type { Register } from "./storage.js";
import type { View } from "./view.js";

/** Asks what a value is: records loads, and whether anything is computed. */
export class Probe implements Scope {
  readonly overrides: ReadonlyMap<number, string> = new Map();
  readonly numbers = new Map<string, Known>();
  readonly lowBytes = new Map<string, Low>();
  readonly loads: { readonly view: View; readonly index: readonly Index[]; readonly name: string }[] = [];
  computed = false;
  #count = 0;

  let(_: Register | "bool", expression: string): string {
    if (!/^\w+$/.test(expression)) this.computed = true;
    return expression;
  }
  index(): string {
    this.computed = true;
    return "0";
  }
  load(view: View, index: readonly Index[]): string {
    const name = `load${this.#count++}`;
    this.loads.push({ view, index, name });
    return name;
  }
  guarded<T>(_: string, body: () => T): T {
    this.computed = true;
    return body();
  }
  fresh(prefix: string): string {
    return `${prefix}${this.#count++}`;
  }
}
