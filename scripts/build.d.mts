export function build(options?: { force?: boolean }): void;
export function copyPlain(out: string): void;
