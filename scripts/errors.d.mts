/** One `defineError` of the sources. */
export interface Definition {
  readonly code: string;
  readonly title: string;
  readonly exit: number;
  readonly what?: string;
  readonly why?: string;
  readonly fix?: string;
  readonly source: string;
}
export const file: string;
export function definitions(): Definition[];
export function render(): string;
