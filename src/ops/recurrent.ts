/** Recurrent networks. */
export {};
