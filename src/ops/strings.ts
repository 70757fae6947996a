/** Text. */
export {};
