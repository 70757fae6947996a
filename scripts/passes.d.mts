/** One pass as its source file defines it. */
export interface PassPage {
  readonly name: string;
  readonly why: string;
  readonly source: string;
  readonly patterns: readonly string[];
}
export const file: string;
export function passes(): readonly PassPage[];
export function lowerable(): readonly string[];
export function render(): string;
