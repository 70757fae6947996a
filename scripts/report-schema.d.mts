/** A valibot schema as JSON Schema. */
export function jsonSchema(schema: unknown): Record<string, unknown>;
/** The file's text for a report schema. */
export function text(schema: unknown, name: string): string;
export const file: string;
export function render(): Promise<string>;
