import { defineConfig } from "vitest/config";

/**
 * TensorRT at length: every family's stand-in, AddressSanitizer, damaged plans, the real library that PARTITA_TENSORRT_DIR names. Each file has a
 * process of its own: a process holds one TensorRT of a name.
 */
export default defineConfig({
  test: {
    include: ["test/tensorrt/**/*.test.ts"],
    testTimeout: 600_000,
    hookTimeout: 300_000,
    maxWorkers: 2,
    pool: "forks",
    reporters: ["verbose"],
  },
});
