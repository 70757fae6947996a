/** The numbered mutants of a seed: the same everywhere with the same bases. */
import { generator } from "../../src/runtime/measure.js";
import type { Base } from "./bases.js";
import { mutate } from "./mutate.js";

export const seedOf = (seed: number, i: number): number => (Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(i + 1, 0x85ebca6b)) >>> 0;

export function mutantOf(bases: readonly Base[], seed: number, i: number): { base: Base; bytes: Uint8Array; how: string } {
  const next = generator(seedOf(seed, i));
  // A third of the mutants come from the models that exercise most of the importer.
  const rich = bases.filter((b) => !b.name.includes("/") && !b.name.includes(": "));
  const choice = next() < 0.35 ? rich : bases;
  const base = choice[Math.floor(next() * choice.length)] as Base;
  const other = bases[Math.floor(next() * bases.length)] as Base;
  return { base, ...mutate(base.bytes, next, other.bytes) };
}
