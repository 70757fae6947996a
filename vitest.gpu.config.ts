import { defineConfig } from "vitest/config";

/** What only a machine with an NVIDIA GPU can show. Each file runs in its own process, one at a time: they share the GPU. */
export default defineConfig({
  test: {
    include: ["test/gpu/**/*.test.ts"],
    globalSetup: ["test/gpu/ledger-setup.ts"],
    testTimeout: 300_000,
    hookTimeout: 120_000,
    maxWorkers: 1,
    pool: "forks",
    reporters: ["verbose"],
  },
});
