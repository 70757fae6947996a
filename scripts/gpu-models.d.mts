export const file: string;
export function render(): string;
