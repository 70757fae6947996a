/** Operators that join tensors. */
export {};
