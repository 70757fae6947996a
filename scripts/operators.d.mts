import type { AnyOp } from "../src/ops/define.js";
import type { TfOpDef } from "../src/ops/tf/define.js";
export const file: string;
export function page(ops: readonly AnyOp[], tfOps: readonly (readonly [name: string, def: TfOpDef])[]): string;
export function render(): Promise<string>;
