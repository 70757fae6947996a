/** Sequences and optionals. */
export {};
