export declare const allowed: Readonly<Record<string, readonly string[]>>;
export declare function breaches(src: string): string[];
